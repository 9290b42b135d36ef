"""Finds damage in picture files that decoders pass over, showing grey or garbage in its place.

Of a PNG the checksums of the pixels are compared here, for Pillow compares only the others; a JPEG
has none, and its codes are followed in `jpegs`. Other kinds of file are left to Pillow.
"""

import struct
import zlib

JPEG_KINDS = ("JPEG", "MPO")  # Pillow's names; an MPO begins with an ordinary JPEG
PNG_SIGNATURE_BYTES = 8


class Damage(Exception):
    """What is wrong within a file, in words."""


def is_complete(content, kind):
    """Whether a file is a JPEG or PNG that was examined and has all of its parts.

    Decoders may read different pixels from one that is not complete.

    Args:
        content: bytes, the file.
        kind: Pillow's name of its format.

    Raises:
        Damage: its pixels are not those that were written.
    """
    if kind in JPEG_KINDS:
        from .jpegs import is_complete_jpeg  # which waits for the compiler

        return is_complete_jpeg(content)
    return kind == "PNG" and is_complete_png(content)


def is_complete_png(content):
    """Whether a PNG has its end; raises Damage where a checksum of its pixels is wrong."""
    place = PNG_SIGNATURE_BYTES
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        checksum = zlib.crc32(memoryview(content)[place + 4 : end]).to_bytes(4, "big")
        is_right = checksum == content[end : end + 4]
        if name == b"IEND":
            return is_right
        if name == b"IDAT" and not is_right:
            raise Damage("the checksum of its pixels is wrong")
        place = end + 4
    return False
