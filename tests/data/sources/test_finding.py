"""Which files below a folder are images, which are passed over or ignored, and which are faulty."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from class_folders import drawn
from conftest import ON_MACOS

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.images.contents import describe_content
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.data.sources import finding
from keras_imnet64.data.sources.finding import find_images

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def write(folder, *names, kind="PNG"):
    """Writes an image under each name, whatever its suffix."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(3, 3).save(folder / name, kind)
    return folder


def names(files, folder):
    return [file.relative_to(folder).as_posix() for file in files]


# ------------------------------------------------------------------------------- what is an image


def test_folders_are_searched_in_sorted_order(tmp_path):
    write(tmp_path, "b/2.JPG", "b/10.png", "a/z.webp", "c.gif", "d/deep/er.tiff")
    (tmp_path / "folder.png").mkdir()
    expected = ["a/z.webp", "b/10.png", "b/2.JPG", "c.gif", "d/deep/er.tiff"]
    assert names(find_images(tmp_path), tmp_path) == expected


@pytest.mark.parametrize("name", ["scan", "1.jpg_large", "1.jpg?size=800", "1.jpe g", "cat.txt"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_content_decides_and_not_the_suffix(tmp_path, name, kind):
    write(tmp_path, name, kind=kind)
    assert names(find_images(tmp_path), tmp_path) == [name]


SYSTEM_FILES = [
    ".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", ".gitkeep",
    "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/1-checkpoint.png",
    "__MACOSX/._1.png", "__MACOSX/1.png", ".git/x.png", "sub/._2.png", ".Trash-1000/files/1.png",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_system_files_are_passed_over(tmp_path, name):
    write(tmp_path, "1.png", name)
    found = finding.find_below(tmp_path)
    assert names(found.images, tmp_path) == ["1.png"]
    assert (found.ignored, found.faulty) == ([], [])


def test_hidden_files_and_texts_are_ignored_by_name(tmp_path):
    write(tmp_path, "1.png", ".2.png", ".old/3.png", "sub/4.png")
    for name in ("notes.txt", "sub/1.xml", "LABELS.CSV"):
        (tmp_path / name).write_text("cat")
    found = finding.find_below(tmp_path)
    expected = [".2.png", ".old", "LABELS.CSV", "notes.txt", "sub/1.xml"]
    assert (names(found.ignored, tmp_path), found.faulty) == (expected, [])


# ---------------------------------------------------------------------- what each other file is


def link_nowhere(path):
    path.symlink_to("/nowhere/1.png")


def link_to_itself(path):
    path.symlink_to(path)


def copy_without_its_end(path):
    path.write_bytes(write(path.parent.parent, "whole.png").joinpath("whole.png").read_bytes()[:9])


FAULTS = {
    "broken.png": (link_nowhere, "is a broken link"),
    "itself.png": (link_to_itself, "is a broken link"),
    "pipe.png": (os.mkfifo, "is not a file"),
    "empty": (lambda path: path.touch(), "is empty"),
    "IMG_1.HEIC": (lambda path: path.write_bytes(HEIC), "is a HEIC image, which is not read"),
    "weights.h5": (lambda path: path.write_bytes(bytes(99)), "is not an image in a known format"),
    "cut": (copy_without_its_end, "is not an image in a known format"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_no_image_is_named_with_its_fault(tmp_path, name):
    make, fault = FAULTS[name]
    folder = write(tmp_path / "folder", "1.png")
    make(folder / name)
    with pytest.raises(UserError, match=f"1 of 2 files below .* cannot be used: {name} {fault}"):
        find_images(folder)
    skipped = []
    assert names(find_images(folder, skipped), folder) == ["1.png"]
    assert [file.name for file, _ in skipped] == [name] and skipped[0][1].startswith(fault)


def test_many_faults_are_counted_and_the_first_are_named(tmp_path):
    write(tmp_path, "1.png", "2.png")
    for number in range(5):
        (tmp_path / f"{number}.jpg").symlink_to("/nowhere")
    faults = r"0\.jpg is a broken link, 1\.jpg is a broken link, 2\.jpg is a broken link"
    with pytest.raises(UserError, match=f"5 of 7 files below .*: {faults} and 2 more; convert"):
        find_images(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (write(tmp_path, "1.png", "2") / "2").chmod(0)
    with pytest.raises(UserError, match=r"2 cannot be read: Permission denied"):
        read_image(find_images(tmp_path)[1], View(8))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (HEIC, "a HEIC image"),
        (b"\0\0\0\x18ftypmif1", "a HEIC image"),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw image"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\xff\x0a\xfa", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n", "a JPEG XL image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b'<?xml version="1.0"?>\n<SVG xmlns=""', "an SVG drawing"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html><title>404", "a web page"),
        (b"\n<HTML><body>", "a web page"),
    ],
)
def test_kinds_of_file_that_pillow_does_not_read_are_named(head, kind):
    assert describe_content(head).startswith(kind)


@pytest.mark.parametrize(
    "head", [b"\xff\xd8\xff\xe0", b"words", b"ftyp", b"a < b <html", bytes(99)]
)
def test_other_bytes_have_no_known_kind(head):
    assert describe_content(head) is None


def test_an_image_of_an_unsupported_kind_is_named_whatever_its_suffix(tmp_path):
    for brand in (b"heic", b"mif1"):  # a phone's image that somebody has renamed
        (tmp_path / "1.jpg").write_bytes(HEIC.replace(b"heic", brand, 1))
        with pytest.raises(UserError, match=r"1\.jpg is a HEIC image, .*\(convert it to JPEG"):
            read_image(tmp_path / "1.jpg", View(8))


# ------------------------------------------------------------------------------------------- paths


def test_files_that_are_passed_by_name_are_returned_unchecked(tmp_path):
    named, folder = tmp_path / "scan", tmp_path / "b"
    folder.mkdir()
    for file in (named, folder / "1.png", tmp_path / ".hidden"):
        file.touch()
    given = [str(named), folder, tmp_path / ".hidden"]
    assert find_images(given) == [named, folder / "1.png", tmp_path / ".hidden"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    inside, outside = write(tmp_path / "inside", "1.png"), write(tmp_path / "outside", "1.png")
    (inside / "up").symlink_to(inside)
    (inside / "elsewhere").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    assert find_images(inside) == [inside / "1.png", inside / "elsewhere" / "1.png"]


@pytest.mark.skipif(ON_MACOS, reason="such a name cannot be made there")
def test_a_file_whose_name_is_not_utf8_is_found(tmp_path):
    file = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    drawn(2, 2).save(os.fsdecode(file), "png")
    (found,) = find_images([tmp_path])
    np.testing.assert_array_equal(read_image(found, View(2)), np.asarray(drawn(2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "nowhere does not exist"),
        (
            lambda path: pathlib.Path("https://example.com/cat.jpg"),
            "is an address; download the image",
        ),
        (lambda path: b"GIF89a", "received a bytes"),
        (lambda path: path, "holds no image"),
        (lambda path: os.mkfifo(path / "pipe") or path / "pipe", "neither a file nor a folder"),
        (lambda path: path / ("x" * 300), "cannot be searched"),
        (lambda path: path / "line\nbreak", r"line\\nbreak does not exist"),
    ],
)
def test_paths_without_images_are_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        find_images([make(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_folder_of_other_kinds_of_file_says_what_they_are(tmp_path):
    (tmp_path / "1.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"holds no image; .*1\.heic is a HEIC image"):
        find_images(tmp_path)
    shutil.copy(tmp_path / "1.heic", tmp_path / "2.heic")
    with pytest.raises(UserError, match="holds no image"):
        find_images(tmp_path, [])


def test_no_paths_are_refused():
    with pytest.raises(UserError, match="no images are given"):
        find_images([])
