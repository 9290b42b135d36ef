"""The contact sheet shows exactly the pixels that the model is fed."""

import re

import numpy as np
import pytest
from class_folders import damage, indexed
from PIL import Image, ImageFont
from selected_images import images_of

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data.augment.shrink import shrink_arrays
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.preview import BACKGROUND, CELL, LINE, MARGIN, font_file, preview

SIZE, FACTOR = 16, CELL // 16


@pytest.fixture
def recipe(small_recipe):
    cutout = {"layer": "keras_cv.layers.Solarization", "threshold_factor": [128, 128]}
    return small_recipe(augment=[{"op": "pad_crop", "padding": 2, "fill": "mean"}, cutout])


def cell(sheet, top, row, column, lines):
    """Returns one image of a sheet at its own size; checks that every pixel became a square."""
    y, x = top + row * (CELL + lines * LINE + MARGIN), MARGIN + column * (CELL + MARGIN)
    pixels = sheet[y : y + CELL, x : x + CELL]
    small = pixels[::FACTOR, ::FACTOR]
    np.testing.assert_array_equal(pixels, small.repeat(FACTOR, 0).repeat(FACTOR, 1))
    return small


def has_ink(sheet, y, x):
    line = sheet[y : y + LINE, x : x + CELL].reshape(-1, 3)
    return (line != BACKGROUND).any()


def test_the_sheet_shows_what_the_model_is_fed(recipe, data_dir, tmp_path):
    result = preview(recipe, tmp_path / "sheet.png", num_images=20, epoch=2, data_dir=data_dir)
    assert result["images"] == 20  # of two batches
    assert result["verified"] is False
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[:2] == (result["height"], result["width"])
    stream = make_stream(recipe, load_data(recipe, data_dir))
    fed = np.concatenate([stream.batch(1, step)[0] for step in range(2)])
    top = MARGIN + LINE + MARGIN
    for index in range(20):
        row, column = divmod(index, 8)
        np.testing.assert_array_equal(cell(sheet, top, row, column, 1), fed[index])
        y = top + row * (CELL + LINE + MARGIN) + CELL
        assert has_ink(sheet, y, MARGIN + column * (CELL + MARGIN))  # the class name


def test_steps_show_each_operation_on_the_same_images(recipe, data_dir, tmp_path):
    result = preview(recipe, tmp_path / "s.png", steps=True, num_images=3, data_dir=data_dir)
    assert result["stages"] == ["stored", "mirror", "pad_crop", "keras_cv.layers.Solarization"]
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    stream = make_stream(recipe, load_data(recipe, data_dir))
    stages, _ = stream.stages(0, 0)
    top = MARGIN + LINE + MARGIN + LINE
    for column, (_, images) in enumerate(stages):
        assert has_ink(sheet, top - LINE, MARGIN + column * (CELL + MARGIN))  # its name
        for row in range(3):
            np.testing.assert_array_equal(cell(sheet, top, row, column, 1), images[row])


def test_stages_are_the_results_of_the_operations(recipe, data_dir):
    data = load_data(recipe, data_dir)
    stream = make_stream(recipe, data)
    ((_, stored), (_, mirrored), (_, cropped), (_, solarized)), labels = stream.stages(0, 3)
    stored_in = {
        image.tobytes(): label for image, label in zip(*images_of(data.train), strict=True)
    }
    assert [stored_in[image.tobytes()] for image in stored] == labels.tolist()
    flips = [(m == s[:, ::-1]).all() for m, s in zip(mirrored, stored, strict=True)]
    assert 0 < sum(flips) < len(flips)
    np.testing.assert_array_equal(solarized, np.where(cropped < 128, cropped, 255 - cropped))
    np.testing.assert_array_equal(stream.batch(0, 3)[0], solarized)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"out": "sheet.jpg"}, r"must be a file whose name ends in \.png"),
        (
            {"out": "nowhere/sheet.png"},
            "cannot be written: No such file or directory; choose a folder that exists",
        ),
        ({"epoch": 0}, "--epoch must be 1 or more"),
        ({"num_images": 0}, "--images must be 1 to 1024; received 0"),
        ({"num_images": 1025}, "--images must be 1 to 1024; received 1025"),
    ],
)
def test_wrong_arguments_are_refused(recipe, data_dir, tmp_path, options, sentence):
    out = tmp_path / options.pop("out", "sheet.png")
    with pytest.raises(UserError, match=sentence):
        preview(recipe, out, data_dir=data_dir, **options)
    assert list(tmp_path.iterdir()) == []


SIZES = [[0.0, 8], [0.3, 12], [0.6, 16]]  # an epoch of each


def test_a_sheet_shows_the_size_of_its_epoch(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"sizes": SIZES})
    stream = make_stream(recipe, load_data(recipe, data_dir))
    for epoch, size in ((1, 8), (3, 16)):
        result = preview(recipe, tmp_path / "s.png", num_images=9, epoch=epoch, data_dir=data_dir)
        assert result["image_size"] == size
        assert result["stages"][-1] == ("8 px" if size == 8 else "pad_crop")
        sheet = np.asarray(Image.open(tmp_path / "s.png"))
        fed, _ = stream.batch(epoch - 1, 0)
        top = MARGIN + LINE + MARGIN + CELL + LINE + MARGIN  # the ninth is in the second row
        pixels = sheet[top : top + CELL, MARGIN : MARGIN + CELL]
        np.testing.assert_array_equal(pixels[:: CELL // size, :: CELL // size], fed[8])


def test_steps_have_a_column_for_each_smaller_size(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"sizes": SIZES})
    result = preview(recipe, tmp_path / "s.png", steps=True, num_images=2, data_dir=data_dir)
    assert result["stages"] == ["stored", "mirror", "pad_crop", "8 px", "12 px"]
    stream = make_stream(recipe, load_data(recipe, data_dir))
    cropped = stream.stages(0, 0, 16)[0][-1].images
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    top = MARGIN + LINE + MARGIN + LINE
    for column, size in ((3, 8), (4, 12)):
        left = MARGIN + column * (CELL + MARGIN)
        places = np.arange(size) * CELL // size + CELL // size // 2  # within each pixel's square
        pixels = sheet[top : top + CELL, left : left + CELL][places][:, places]
        np.testing.assert_array_equal(pixels, shrink_arrays(cropped, size)[0])


def test_images_that_are_mirrored_when_decoded_are_said_to_be(small_recipe, tmp_path):
    indexed(tmp_path)
    recipe = small_recipe(
        data={"dataset": "image_folder/toy", "image_size": 16, "batch_size": 8},
        model={"normalization": "imagenet"},
        augment=[{"op": "pad_crop", "padding": 2, "fill": "reflect"}],
    )
    arguments = {"steps": True, "num_images": 2, "data_dir": tmp_path / "data"}
    result = preview(recipe, tmp_path / "s.png", **arguments)
    assert result["stages"] == ["stored, mirrored", "pad_crop"]


def test_an_image_that_has_changed_is_named_in_one_sentence(small_recipe, tmp_path):
    """By `data preview`, and by a training loop of one's own."""
    store = indexed(tmp_path, suffix=".png")["train"]
    data = {"dataset": "image_folder/toy", "image_size": 16, "batch_size": 3}
    recipe = small_recipe(data=data, model={"normalization": "imagenet"}, augment=[])
    stream = make_stream(recipe, load_data(recipe, tmp_path / "data"))
    file = damage(store, int(stream.positions(0, 1)[0]))
    sentence = f"^{re.escape(str(file))} is damaged, or has changed since it was indexed: restore"
    arguments = {"num_images": 6, "data_dir": tmp_path / "data"}
    with pytest.raises(RunFailed, match=sentence) as failure:
        preview(recipe, tmp_path / "s.png", **arguments)
    assert "\n" not in str(failure.value) and not (tmp_path / "s.png").exists()
    with pytest.raises(RunFailed, match=sentence):
        stream.batch(0, 1)
    assert len(stream.batch(0, 0)[0]) == 3
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(RunFailed, match=r"\.png can no longer be read"):
        preview(recipe, tmp_path / "s.png", **arguments)
    with pytest.raises(RunFailed, match=r"\.png can no longer be read"):
        stream.batch(0, 1)
    file.write_bytes(content)
    other = damage(store, int(stream.positions(0, 0)[0]))
    with pytest.raises(RunFailed, match=f"^{re.escape(str(other))} is damaged"):
        stream.batch(0, 0)


def test_names_may_have_letters_of_other_languages():
    font = ImageFont.truetype(font_file(), 14)
    drawn = {bytes(font.getmask(letter)) for letter in "üÄßéøšжλ\uffff"}
    assert len(drawn) == 9  # each unlike the box for what the font lacks
