"""Reads images of every common format and mode, worked by hand, and refuses other files."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import png_that_claims
from PIL import Image

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View

COLOURS = np.array([[[250, 0, 0], [0, 240, 0]], [[0, 0, 230], [9, 8, 7]]], "uint8")  # 2 x 2


def write(path, image, **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    image.save(path, **options)
    return path


# --------------------------------------------------------------------------------------- read


def test_an_unknown_filter_is_refused(tmp_path):
    path = write(tmp_path / "a.png", COLOURS)
    with pytest.raises(UserError, match='no resize filter "boxx": did you mean "box"'):
        read_image(path, View(4, "boxx"))


def test_greyscale_and_palettes_are_converted_to_rgb(tmp_path):
    grey = write(tmp_path / "grey.png", np.array([[0, 77], [128, 255]], "uint8"))
    np.testing.assert_array_equal(read_image(grey, View(2))[..., 2], [[0, 77], [128, 255]])
    one_bit = Image.fromarray(np.array([[0, 255], [255, 0]], "uint8")).convert("1")
    found = read_image(write(tmp_path / "bit.png", one_bit), View(2))
    np.testing.assert_array_equal(found[..., 0], [[0, 255], [255, 0]])
    palette = Image.fromarray(COLOURS).quantize(4)
    assert palette.mode == "P"
    np.testing.assert_array_equal(read_image(write(tmp_path / "p.png", palette), View(2)), COLOURS)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257 * 7], [257 * 128 + 120, 65535]], "uint16")
    path = write(tmp_path / f"a.{suffix}", values)
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(read_image(path, View(2))[..., 1], [[0, 7], [128, 255]])


def test_32_bit_numbers_have_no_known_white(tmp_path):
    whole = write(tmp_path / "whole.tiff", np.array([[0, 70_000]], "int32"))
    with pytest.raises(UserError, match=r"from 0 to 70000; 8 or 16 bits"):
        read_image(whole, View(2))
    floats = write(tmp_path / "floats.tiff", np.array([[0, 1]], "float32"))
    with pytest.raises(UserError, match="8 or 16 bits"):
        read_image(floats, View(2))


def test_cmyk_is_converted_to_rgb(tmp_path):
    ink = np.array([[[255, 0, 0, 0], [0, 0, 0, 255]], [[0, 0, 0, 0], [0, 255, 255, 0]]], "uint8")
    path = write(tmp_path / "a.tiff", Image.fromarray(ink, "CMYK"))
    expected = [[[0, 255, 255], [0, 0, 0]], [[255, 255, 255], [255, 0, 0]]]
    np.testing.assert_array_equal(read_image(path, View(2)), expected)


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((2, 2, 4), "uint8")
    rgba[..., 3] = [[255, 0], [51, 0]]  # black: opaque, clear, a fifth
    expected = [[0, 255], [204, 255]]
    found = read_image(write(tmp_path / "rgba.png", rgba), View(2))
    np.testing.assert_array_equal(found, np.stack([expected] * 3, -1))
    grey = Image.fromarray(rgba[..., [0, 3]], "LA")
    np.testing.assert_array_equal(read_image(write(tmp_path / "la.png", grey), View(2)), found)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_value_that_png_marks_as_transparent_becomes_white(tmp_path, dtype):
    path = write(tmp_path / "a.png", np.array([[0, 5], [5, 0]], dtype), transparency=5)
    np.testing.assert_array_equal(read_image(path, View(2))[..., 0], [[0, 255], [255, 0]])


def test_a_palette_entry_that_is_transparent_becomes_white(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], "uint8"), "P")
    palette.putpalette([10, 20, 30, 200, 0, 0])
    path = write(tmp_path / "a.gif", palette, transparency=1)
    expected = [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]
    np.testing.assert_array_equal(read_image(path, View(2)), expected)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "lime", "blue")]
    path = write(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path, View(2)), np.full((2, 2, 3), [255, 0, 0]))


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation, suffix):
    """Undoes what a camera stores under each orientation.

    EXIF names the sides on which the first row and the first column lie. For orientation 6 these
    are the right side and the top, so the stored image is turned clockwise.
    """
    stored = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, 1),
        7: np.rot90(COLOURS, 2).transpose(1, 0, 2),
        8: np.rot90(COLOURS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = write(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    np.testing.assert_array_equal(read_image(path, View(2)), COLOURS)


def test_damaged_exif_is_ignored(tmp_path):
    grey = np.full((8, 8), 60, "uint8")
    path = write(tmp_path / "a.jpg", grey, exif=b"Exif\0\0" + b"no tiff header at all")
    np.testing.assert_array_equal(read_image(path, View(8)), 60)


def test_threads_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 256, (40, 30, 3), "uint8") for _ in range(40)]
    files = [write(tmp_path / f"{n:02}.png", pixels) for n, pixels in enumerate(drawn)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda file: read_image(file, View(16)), files))
    np.testing.assert_array_equal(together, [read_image(file, View(16)) for file in files])


# ------------------------------------------------------------------------------------- refuse


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"these are words, not pixels\n" * 9, "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is not an image"),  # a file of weights
        (png_that_claims(8, 8), "is not a whole image"),
        (png_that_claims(60_000, 60_000), r"claims 3,600,000,000 pixels; .* at most 89,478,485"),
    ],
)
def test_files_that_are_not_images_are_refused(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.png {message}"):
        read_image(path, View(16))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_sizes_between_pillows_two_limits_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(10_000, 10_000))
    with pytest.raises(UserError, match="claims 100,000,000 pixels"):
        read_image(path, View(16))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_the_sentence_is_the_same_where_warnings_are_errors(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(10_000, 10_000))
    with pytest.raises(UserError, match="claims 100,000,000 pixels"):
        read_image(path, View(16))


def test_a_truncated_jpeg_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    path = write(tmp_path / "a.jpg", pixels)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.jpg is not a whole image: Premature end"):
        read_image(path, View(16))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damage_that_pillow_overlooks_is_refused_as_by_data_sets(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    path = write(tmp_path / f"a{suffix}", pixels)
    content = bytearray(path.read_bytes())
    if suffix == ".jpg":
        middle = len(content) // 2
        content[middle : middle + 2] = b"\xff\xd9"  # the marker of an end
    else:
        content[content.index(b"IEND") - 5] ^= 1  # in the checksum of the pixels
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\{suffix} is not a whole image"):
        read_image(path, View(16))


def test_a_line_is_not_resized_to_gigabytes(tmp_path):
    path = write(tmp_path / "line.png", np.zeros((1, 3000, 3), "uint8"))
    assert read_image(path, View(8)).shape == (8, 8, 3)
    with pytest.raises(UserError, match=r"too narrow: its 3000 x 1 .* become 768,000 x 256 as"):
        read_image(path, View(224, "bilinear", 256))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's
def test_random_damage_gives_an_image_or_one_sentence(tmp_path):
    """Images of eight kinds, with random bytes changed and ends cut off."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (12, 12, 3), "uint8"))
    path, refused = tmp_path / "a", 0
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "ico"):
        pixels.save(path, kind)
        whole = np.frombuffer(path.read_bytes(), "uint8")
        for _ in range(60):
            damaged = whole.copy()[: rng.integers(1, len(whole) + 1)]
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            try:
                assert read_image(path, View(8)).shape == (8, 8, 3)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
    assert 100 < refused < 480


def test_paths_that_are_not_regular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "nowhere.png", "."):
        with pytest.raises(UserError, match="is not a file"):
            read_image(tmp_path / name, View(16))
