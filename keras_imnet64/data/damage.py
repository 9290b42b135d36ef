"""Finds damage in picture files that decoders pass over, showing grey or garbage in its place.

Of a PNG the checksums are compared here, which Pillow does not do for all; a JPEG has none, and its
codes are followed in `jpegs`. Other kinds of file are left to Pillow.
"""

import struct
import zlib

from ..errors import UserError

JPEG_KINDS = ("JPEG", "MPO")  # Pillow's names; an MPO begins with an ordinary JPEG
PNG_SIGNATURE_BYTES = 8
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}  # what the first frame is made of


class Damage(Exception):
    """What is wrong within a file, in words."""


def refuse_damage(content, kind, where):
    """Refuse a picture whose pixels are not as they were written.

    Args:
        content: bytes, the file.
        kind: Pillow's name of its format.
        where: the file's name, for the message.

    Returns:
        bool: whether the file is a JPEG or PNG that was examined and is complete. Decoders may read
        different pixels from one that is not.

    Raises:
        UserError: it is damaged.
    """
    from .jpegs import is_complete_jpeg

    try:
        if kind in JPEG_KINDS:
            return is_complete_jpeg(content)
        return kind == "PNG" and is_complete_png(content)
    except Damage as damage:
        raise UserError(f"{where} is not a whole picture: {damage}") from None


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
        if name in PIXEL_CHUNKS and not is_right:
            raise Damage(f"the checksum of its part {name.decode()} is wrong")
        place = end + 4
    return False
