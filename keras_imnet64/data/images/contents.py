"""Recognises a file that Pillow cannot read by its first bytes, and describes it for a message."""

from keras_imnet64.core.file_kinds import FileKind, find_kind

HEAD_BYTES = 512
CONVERT_IT = "which is not read here (convert it to JPEG or PNG)"
DESCRIPTIONS = {
    FileKind.AVIF: f"an AVIF image, {CONVERT_IT}",
    FileKind.CAMERA_RAW: f"a camera's raw image, {CONVERT_IT}",
    FileKind.GIT_LFS_POINTER: "a Git LFS pointer, not the image (run `git lfs pull`)",
    FileKind.GZIP: "a gzip archive, not an image",
    FileKind.HEIC: f"a HEIC image, {CONVERT_IT}",
    FileKind.JPEG_XL: f"a JPEG XL image, {CONVERT_IT}",
    FileKind.PDF: "a PDF document, not an image",
    FileKind.VIDEO: "a video, not an image",
    FileKind.ZIP: "a zip archive, not an image",
}
MARKUP = (  # (text in lower case near the beginning, what the file is)
    (b"<svg", f"an SVG drawing, {CONVERT_IT}"),
    (b"<!doctype html", "a web page, not the image (download it again)"),
    (b"<html", "a web page, not the image (download it again)"),
)


def describe_content(head: bytes) -> str | None:
    """Returns what a file is, as the end of a sentence "FILE is ..."; None if it is not known.

    Args:
        head: the first HEAD_BYTES of the file, or the whole file if it is shorter.
    """
    if not head:
        return "empty"
    kind = find_kind(head)
    if kind in DESCRIPTIONS:
        return DESCRIPTIONS[kind]
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return next((text for tag, text in MARKUP if tag in head.lower()), None)
    return None
