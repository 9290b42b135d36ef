"""Names what a file is by its first bytes, for messages about files that Pillow cannot read."""

HEAD_BYTES = 512
CONVERT = "which is not read here (convert it to JPEG or PNG)"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
CAMERA_BRAND = b"crx "
BEGINNINGS = (  # bytes -> what begins with them
    (b"\xff\x0a", f"a JPEG XL image, {CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"a JPEG XL image, {CONVERT}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the image (run `git lfs pull`)"),
    (b"%PDF", "a PDF document, not an image"),
    (b"PK\x03\x04", "a zip archive, not an image"),
    (b"\x1f\x8b", "a gzip archive, not an image"),
)
MARKUP = (  # in lower case -> what begins with it or holds it near its beginning
    (b"<svg", f"an SVG drawing, {CONVERT}"),
    (b"<!doctype html", "a web page, not the image (download it again)"),
    (b"<html", "a web page, not the image (download it again)"),
)


def kind_of(head: bytes) -> str | None:
    """What a file is, as the end of a sentence "FILE is ..."; None where its bytes say nothing.

    Args:
        head: the first HEAD_BYTES of the file, or all of a shorter one.
    """
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return _kind_of_media(head[8:12])
    found = [kind for beginning, kind in BEGINNINGS if head.startswith(beginning)]
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        found += [kind for tag, kind in MARKUP if tag in head.lower()]
    return found[0] if found else None


def _kind_of_media(brand: bytes) -> str:
    """HEIC, AVIF, camera raws and videos share one container (ISO 14496-12) and differ in brand."""
    if brand in HEIC_BRANDS:
        return f"a HEIC image, {CONVERT}"
    if brand in AVIF_BRANDS:
        return f"an AVIF image, {CONVERT}"
    if brand == CAMERA_BRAND:
        return f"a camera's raw image, {CONVERT}"
    return "a video, not an image"
