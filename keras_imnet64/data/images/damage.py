"""Finds damage in image files that decoders overlook, for which they show grey or garbage.

libjpeg only warns of damage. Pillow and TensorFlow drop the warning, but simplejpeg raises it, so
JPEGs are decoded with simplejpeg here. The checksums of a PNG's pixels are compared here, since
Pillow skips them. Other formats are left to Pillow.
"""

import re
import struct
import zlib

import simplejpeg

JPEG_FORMATS = ("JPEG", "MPO")  # Pillow's names; an MPO begins with an ordinary JPEG
DECODED_COLOURS = {
    "Gray": "GRAY",
    "CMYK": "CMYK",
    "YCCK": "CMYK",
}  # stored -> decoded; all others are decoded to RGB
MAX_JUNK_BYTES = 16  # some encoders leave junk before the end, in ImageNet too; it harms no pixel
JUNK = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
PNG_SIGNATURE_BYTES = 8


class DamagedImage(Exception):
    """The content of an image file is damaged; the message says how."""


def check_undamaged(content: bytes, image_format: str | None) -> bool:
    """Checks that all pixels of a JPEG or PNG file are undamaged.

    Args:
        content: the file.
        image_format: Pillow's name for the format.

    Returns:
        Whether the file is clean: TensorFlow prints a warning each time that it decodes a JPEG with
        junk before its end.

    Raises:
        DamagedImage: the pixels are damaged.
    """
    if image_format in JPEG_FORMATS:
        return _check_jpeg(content)
    if image_format == "PNG":
        _check_png(content)
    return True


def _check_jpeg(content: bytes) -> bool:
    """Decodes at the smallest scale, which reads all data; returns whether there is no junk."""
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(content)
        colours = DECODED_COLOURS.get(colours, "RGB")
        simplejpeg.decode_jpeg(content, colours, min_height=1, min_width=1)
    except ValueError as error:
        junk = JUNK.search(str(error))
        if not junk or int(junk[1]) > MAX_JUNK_BYTES:
            raise DamagedImage(str(error)) from None
        return False
    return True


def _check_png(content: bytes) -> None:
    start = PNG_SIGNATURE_BYTES
    while start + 12 <= len(content):
        length, chunk = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        checksum = zlib.crc32(memoryview(content)[start + 4 : end]).to_bytes(4, "big")
        if chunk == b"IDAT" and checksum != content[end : end + 4]:
            raise DamagedImage("the checksum of its pixels is wrong")
        if chunk == b"IEND":
            return
        start = end + 4
