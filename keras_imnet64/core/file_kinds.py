"""Finds the kind of a file by its first bytes.

`data.images.contents` and `convert.weight_formats` describe the kinds that they refuse.
"""

from enum import Enum, auto


class FileKind(Enum):
    """A kind of file that its first bytes identify."""

    AVIF = auto()
    BZIP2 = auto()
    CAMERA_RAW = auto()
    FLAX = auto()
    GGUF = auto()
    GIT_LFS_POINTER = auto()
    GZIP = auto()
    HDF5 = auto()
    HEIC = auto()
    JPEG_XL = auto()
    PDF = auto()
    RAR = auto()
    SEVEN_ZIP = auto()
    TAR = auto()
    TENSORFLOW_LITE = auto()
    VIDEO = auto()
    XZ = auto()
    ZIP = auto()
    ZSTD = auto()


SIGNATURES = (  # (bytes, their offset, kind); the first match counts
    (b"\xff\x0a", 0, FileKind.JPEG_XL),
    (b"\0\0\0\x0cJXL ", 0, FileKind.JPEG_XL),
    # HEIC, AVIF, camera raws and videos share one container (ISO 14496-12) and differ in brand.
    *((b"ftyp" + brand, 4, FileKind.HEIC) for brand in (b"heic", b"heix", b"heim", b"heis")),
    *((b"ftyp" + brand, 4, FileKind.HEIC) for brand in (b"hevc", b"hevx", b"mif1", b"msf1")),
    *((b"ftyp" + brand, 4, FileKind.AVIF) for brand in (b"avif", b"avis")),
    (b"ftypcrx ", 4, FileKind.CAMERA_RAW),
    (b"ftyp", 4, FileKind.VIDEO),
    (b"version https://git-lfs", 0, FileKind.GIT_LFS_POINTER),
    (b"%PDF", 0, FileKind.PDF),
    (b"PK\x03\x04", 0, FileKind.ZIP),
    (b"\x1f\x8b", 0, FileKind.GZIP),
    (b"BZh", 0, FileKind.BZIP2),
    (b"\xfd7zXZ\x00", 0, FileKind.XZ),
    (b"\x28\xb5\x2f\xfd", 0, FileKind.ZSTD),
    (b"7z\xbc\xaf\x27\x1c", 0, FileKind.SEVEN_ZIP),
    (b"Rar!", 0, FileKind.RAR),
    (b"ustar", 257, FileKind.TAR),
    (b"\x89HDF\r\n\x1a\n", 0, FileKind.HDF5),
    (b"GGUF", 0, FileKind.GGUF),
    (b"TFL3", 4, FileKind.TENSORFLOW_LITE),
    (b"\x81\xa6params", 0, FileKind.FLAX),  # MessagePack of {"params": ...}
)


def find_kind(head: bytes) -> FileKind | None:
    """Returns the kind of a file, or None if its first bytes have no known signature.

    Args:
        head: the first bytes of the file; 262 are enough for every signature.
    """
    for signature, offset, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    return None
