"""Describes what a file is by its first bytes, in messages about files that Pillow cannot read."""

HEAD_BYTES = 512
CONVERT_IT = "which is not read here (convert it to JPEG or PNG)"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
CAMERA_BRAND = b"crx "
SIGNATURES = (  # (first bytes, what the file is)
    (b"\xff\x0a", f"a JPEG XL image, {CONVERT_IT}"),
    (b"\0\0\0\x0cJXL ", f"a JPEG XL image, {CONVERT_IT}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the image (run `git lfs pull`)"),
    (b"%PDF", "a PDF document, not an image"),
    (b"PK\x03\x04", "a zip archive, not an image"),
    (b"\x1f\x8b", "a gzip archive, not an image"),
)
MARKUP = (  # (text in lower case near the beginning, what the file is)
    (b"<svg", f"an SVG drawing, {CONVERT_IT}"),
    (b"<!doctype html", "a web page, not the image (download it again)"),
    (b"<html", "a web page, not the image (download it again)"),
)


def describe_content(head: bytes) -> str | None:
    """Returns what a file is, as the end of a sentence "FILE is ...", or None if unknown.

    Args:
        head: the first HEAD_BYTES of the file, or all of a shorter one.
    """
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return _describe_media(head[8:12])
    found = [description for signature, description in SIGNATURES if head.startswith(signature)]
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        found += [description for tag, description in MARKUP if tag in head.lower()]
    return found[0] if found else None


def _describe_media(brand: bytes) -> str:
    """HEIC, AVIF, camera raws and videos share one container (ISO 14496-12) and differ in brand."""
    if brand in HEIC_BRANDS:
        return f"a HEIC image, {CONVERT_IT}"
    if brand in AVIF_BRANDS:
        return f"an AVIF image, {CONVERT_IT}"
    if brand == CAMERA_BRAND:
        return f"a camera's raw image, {CONVERT_IT}"
    return "a video, not an image"
