"""From files to images of one size: Pillow's pixels, whichever way a file is turned."""

import io

import numpy as np
import pytest
from class_folders import drawn, indexed, resized
from PIL import Image

from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.augment.crops import BOX, draw_crops
from keras_imnet64.data.images.reading import apply_orientation
from keras_imnet64.data.images.views import View
from keras_imnet64.data.order import epoch_order, generator
from keras_imnet64.data.selection import select
from keras_imnet64.data.stores.decoding import crop_resizer, decode, regions, upright
from keras_imnet64.data.stream import TrainingStream, evaluation_batches

CROP = ("random_resized_crop", {"scale": [0.2, 0.9], "interpolation": "bicubic"})


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return indexed(tmp_path_factory.mktemp("folders"))


def stream_of(store, *augmentation, size=16, **options):
    steps = [check_augment(op, settings, size) for op, settings in augmentation]
    view = View(size, "bilinear", 20)
    return TrainingStream(select(store), batch_size=3, view=view, augmentation=steps, **options)


def image_of(store, position):
    return Image.open(io.BytesIO(store.read([position])[0])).convert("RGB")


def as_it_is(pixels, mirrored):
    return pixels.copy()


def region(box, size):
    boxes = {key: np.array([value]) for key, value in zip(BOX, box, strict=True)}
    return regions(boxes, np.array([size]), np.array([1]))[0]


# ------------------------------------------------------------------------------- boxes, turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_the_same_part_however_the_file_is_turned(orientation):
    stored = Image.fromarray(np.arange(5 * 7 * 3, dtype="uint8").reshape(5, 7, 3))
    seen = apply_orientation(stored, orientation)
    top, left, height, width = 1, 2, 3, 2
    box = {"top": [top], "left": [left], "height": [height], "width": [width]}
    (found,) = regions(box, np.array([seen.size[::-1]]), np.array([orientation]))
    (y, x), (h, w) = found[:2] + found[4:6], found[6:8]
    part = upright(np.asarray(stored)[y : y + h, x : x + w], found[8])
    expected = seen.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(part, np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_images_are(orientation):
    stored = drawn(5, 7)
    found = upright(np.asarray(stored), orientation)
    np.testing.assert_array_equal(found, np.asarray(apply_orientation(stored, orientation)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "box", "lanczos"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_pillows_to_the_bit(kind, interpolation, mirrored):
    content = io.BytesIO()
    drawn(61, 83).save(content, kind)
    show = crop_resizer(24, interpolation)
    found = decode(
        content.getvalue(), region((7, 11, 40, 52), (61, 83)), mirrored, show, (24, 24, 3)
    )
    part = Image.open(content).crop((11, 7, 11 + 52, 7 + 40))
    expected = np.asarray(resized(part, (24, 24), interpolation))
    np.testing.assert_array_equal(found, expected[:, ::-1] if mirrored else expected)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey"])
def test_the_edges_of_a_crop_have_the_colours_beside_it(subsampling):
    """JPEG has colours of several pixels in one: those outside the crop count at its edge."""
    content, picture = io.BytesIO(), drawn(45, 70)
    options = {} if subsampling == "grey" else {"subsampling": subsampling}
    (picture.convert("L") if subsampling == "grey" else picture).save(content, "JPEG", **options)
    whole = Image.open(content).convert("RGB")
    for top, left, height, width in np.random.default_rng(0).integers(1, 17, (25, 4)).tolist():
        box = (top, left, height, width)
        found = decode(content.getvalue(), region(box, (45, 70)), False, as_it_is, (None,) * 3)
        part = whole.crop((left, top, left + width, top + height))
        np.testing.assert_array_equal(found, np.asarray(part))


# ----------------------------------------------------------------------------------- evaluation


def test_the_centre_is_cropped_from_the_shorter_side():
    """4 x 8 doubled to 8 x 16, nearest: rows 2..5 are rows 1 and 2, columns 6..9 are 3 and 4."""
    pixels = np.zeros((4, 8, 3), "uint8")
    pixels[..., 0], pixels[..., 1] = np.arange(4)[:, None], np.arange(8)
    shown = View(4, "nearest", 8).show(Image.fromarray(pixels))
    np.testing.assert_array_equal(shown[..., 0], np.repeat([[1, 1, 2, 2]], 4, axis=0).T)
    np.testing.assert_array_equal(shown[..., 1], np.repeat([[3, 3, 4, 4]], 4, axis=0))


def test_sizes_are_rounded_as_torchvision_does():
    """375 x 500 at 256: the longer side is int(256 * 500 / 375) = 341, its margin round(58.5)."""
    view = View(224, "bilinear", 256)
    large = drawn(375, 500)
    assert view.resized(large.size) == (341, 256)
    resized = large.resize((341, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[16 : 16 + 224, 58 : 58 + 224]
    np.testing.assert_array_equal(view.show(large), expected)


def test_ten_crops_are_the_centre_the_corners_and_their_mirrors():
    pixels = np.zeros((4, 6, 3), "uint8")
    pixels[..., 0] = 10 * np.arange(4)[:, None] + np.arange(6)
    crops = View(2, "nearest", 4, ten_crop=True).show(Image.fromarray(pixels))[..., 0]
    firsts = [crop[0, 0] for crop in crops]
    assert firsts == [12, 0, 4, 20, 24, 13, 1, 5, 21, 25]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


@pytest.mark.parametrize("ten_crop", [False, True])
def test_every_image_is_shown_once_as_the_view_has_it(stores, ten_crop):
    store = stores["train"]
    view = View(16, "bilinear", 20, ten_crop)
    batches = list(evaluation_batches(select(store), 4, view).as_numpy_iterator())
    images, labels, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert weights.sum() == len(store) and len(weights) % 4 == 0
    for position in range(len(store)):
        np.testing.assert_array_equal(images[position], view.show(image_of(store, position)))
    np.testing.assert_array_equal(labels[: len(store)], store.labels)


# ------------------------------------------------------------------------------------- training


def test_a_crop_is_drawn_in_the_full_size_of_each_image(stores):
    """Worked out again from the order, the draws' definition and Pillow."""
    store = stores["train"]
    stream = stream_of(store, CROP, seed=5)
    images, _ = stream.batch(epoch=2, step=1)
    positions, _ = epoch_order(len(store), "none", 5, 2)
    rng = generator(5, 2, "augment 0 random_resized_crop")
    boxes = draw_crops(rng, store.sizes(positions), [0.2, 0.9], [3 / 4, 4 / 3])
    for sample, image in enumerate(images, start=3):
        box = {key: int(values[sample]) for key, values in boxes.items()}
        right, bottom = box["left"] + box["width"], box["top"] + box["height"]
        part = image_of(store, positions[sample]).crop((box["left"], box["top"], right, bottom))
        expected = resized(part, (16, 16), "bicubic")
        np.testing.assert_array_equal(image, np.asarray(expected))
    assert max(boxes["width"]) > 46 * 0.9  # boxes of full-size images, not of 16 pixels


def test_a_filter_is_drawn_for_each_crop(stores):
    """In a pipeline as eagerly; the boxes are those of a filter that is not drawn."""
    store = stores["train"]
    streams = {
        name: stream_of(store, ("random_resized_crop", {"interpolation": name}), mirror="random")
        for name in ("random", "bilinear", "bicubic")
    }
    counts = {"bilinear": 0, "bicubic": 0}
    for step, (images, _) in enumerate(streams["random"].dataset().as_numpy_iterator()):
        np.testing.assert_array_equal(images, streams["random"].batch(0, step)[0])
        for image, *others in zip(
            images, *(streams[name].batch(0, step)[0] for name in counts), strict=True
        ):
            (name,) = [n for n, o in zip(counts, others, strict=True) if np.array_equal(image, o)]
            counts[name] += 1
    assert sum(counts.values()) == 9 and min(counts.values()) > 1


def test_without_a_crop_images_are_shown_as_in_evaluation(stores):
    store = stores["train"]
    images, _ = stream_of(store).batch(epoch=0, step=0)
    positions, _ = epoch_order(len(store), "none", 0, 0)
    view = View(16, "bilinear", 20)
    expected = [view.show(image_of(store, position)) for position in positions[:3]]
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize(
    "augmentation",
    [[], [CROP], [CROP, ("color_jitter", {"brightness": 0.4}), ("mixup", {})]],
    ids=["none", "crop", "mixed"],
)
def test_an_epoch_is_the_same_from_any_step_on(stores, augmentation):
    stream = stream_of(stores["train"], *augmentation, mirror="random")
    assert stream.steps_per_epoch == 3
    for begin in range(3):
        stream.begin(1, begin)
        batches = list(stream.dataset().as_numpy_iterator())
        assert len(batches) == 3 - begin
        for step, (images, labels) in enumerate(batches, start=begin):
            expected = stream.batch(1, step)
            np.testing.assert_array_equal(images, expected[0])
            np.testing.assert_array_equal(labels, expected[1])


def test_the_first_stage_is_named_after_what_reads_it(stores):
    names = [name for name, _ in stream_of(stores["train"], CROP, mirror="random").stages(0, 0)[0]]
    assert names == ["random_resized_crop"]  # mirrored with it
    names = [name for name, _ in stream_of(stores["train"]).stages(0, 0)[0]]
    assert names == ["stored"]


def test_means_count_each_image_alike(stores):
    store = stores["train"]
    pictures = [np.asarray(image_of(store, p), "float64") for p in range(len(store))]
    mean = np.mean([picture.mean(axis=(0, 1)) for picture in pictures], axis=0)
    square = np.mean([(picture**2).mean(axis=(0, 1)) for picture in pictures], axis=0)
    found = select(store).moments()
    np.testing.assert_allclose(found.channel_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.channel_std, np.sqrt(square - mean**2), rtol=1e-9)
    assert found.mean_image is None


def test_means_of_a_class_are_of_its_images_alone(stores):
    store = stores["train"]
    part = select(store, [store.wnids[1]])
    pictures = [np.asarray(image_of(store, p), "float64") for p in part.positions]
    assert 0 < len(pictures) < len(store)
    mean = np.mean([picture.mean(axis=(0, 1)) for picture in pictures], axis=0)
    square = np.mean([(picture**2).mean(axis=(0, 1)) for picture in pictures], axis=0)
    found = part.moments()
    assert found.count == len(pictures)
    np.testing.assert_allclose(found.channel_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.channel_std, np.sqrt(square - mean**2), rtol=1e-9)
