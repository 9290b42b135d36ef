"""Finds damage in image files that decoders pass over, showing grey or garbage in its place.

libjpeg only warns of it, and neither Pillow nor TensorFlow passes the warning on, so JPEGs are
decoded by simplejpeg, which does. Of a PNG the checksums of the pixels are compared here, for
Pillow compares only the others. Other kinds of file are left to Pillow.
"""

import re
import struct
import zlib

import simplejpeg

JPEG_KINDS = ("JPEG", "MPO")  # Pillow's names; an MPO begins with an ordinary JPEG
COLOURS = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}  # as stored: as decoded; else RGB
JUNK_BYTES = 16  # that some encoders leave before the end, in ImageNet too; pixels are whole
JUNK = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
PNG_SIGNATURE_BYTES = 8


class Damage(Exception):
    """What is wrong within a file, in words."""


def check_undamaged(content, kind):
    """Refuse a JPEG or PNG whose pixels are not all those that were written.

    Args:
        content: bytes, the file.
        kind: Pillow's name of its format.

    Returns:
        Whether nothing is to be said of it: TensorFlow prints a warning each time that it decodes
        a JPEG with junk before its end.

    Raises:
        Damage: says what is wrong.
    """
    if kind in JPEG_KINDS:
        return _check_jpeg(content)
    if kind == "PNG":
        _check_png(content)
    return True


def _check_jpeg(content):
    """Decode it at the smallest scale, for every code is read at any; whether there is no junk."""
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(content)
        colours = COLOURS.get(colours, "RGB")
        simplejpeg.decode_jpeg(content, colours, min_height=1, min_width=1)
    except ValueError as error:
        junk = JUNK.search(str(error))
        if not junk or int(junk[1]) > JUNK_BYTES:
            raise Damage(str(error)) from None
        return False
    return True


def _check_png(content):
    place = PNG_SIGNATURE_BYTES
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        checksum = zlib.crc32(memoryview(content)[place + 4 : end]).to_bytes(4, "big")
        if name == b"IDAT" and checksum != content[end : end + 4]:
            raise Damage("the checksum of its pixels is wrong")
        if name == b"IEND":
            return
        place = end + 4
