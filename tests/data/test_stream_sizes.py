"""Streams whose epochs have several sizes: the same samples, augmented as ever, then shrunk."""

import numpy as np
import pytest
from class_folders import indexed
from conftest import learnable_images
from toy_store import in_memory

from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.augment.shrink import shrink_arrays
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import select
from keras_imnet64.data.stream import TrainingStream

SIZES = [8, 12, 16]  # of the first epochs
OPERATIONS = [
    [("pad_crop", {"padding": 2}), ("random_erasing", {})],
    [("trivial_augment", {}), ("cutmix", {"probability": 1.0})],
]


def size_of_epoch(epoch):
    return SIZES[min(epoch, 2)]


def stream(selection, operations, **options):
    steps = [check_augment(op, settings) for op, settings in operations]
    return TrainingStream(
        selection, batch_size=8, seed=3, mirror="random", augmentation=steps, **options
    )


@pytest.fixture(scope="module")
def raw():
    images, labels = learnable_images(40, 16, 0)
    names = [f"n{k}" for k in range(10)]
    return select(in_memory(images, labels.astype("int64"), wnids=names, class_names=names))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    return select(indexed(tmp_path_factory.mktemp("folders"))["train"])


@pytest.mark.parametrize("operations", OPERATIONS, ids=["boxes", "mixed"])
@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.slow), 1, 2])
def test_smaller_epochs_are_the_full_ones_shrunk(raw, operations, epoch):
    """Boxes, borders and shares of labels are those of the full size."""
    full, sized = stream(raw, operations), stream(raw, operations, size_of_epoch=size_of_epoch)
    size = SIZES[epoch]
    batches = sized.dataset(size)
    assert batches.element_spec[0].shape == (8, size, size, 3)
    sized.begin(epoch)
    for step, (images, labels) in enumerate(batches.as_numpy_iterator()):
        expected, its_labels = full.batch(epoch, step)
        np.testing.assert_array_equal(images, shrink_arrays(expected, size))
        np.testing.assert_array_equal(labels, its_labels)
        np.testing.assert_array_equal(sized.batch(epoch, step)[0], images)
    assert step == 4


def test_a_data_set_of_one_size_refuses_an_epoch_of_another(raw):
    data = stream(raw, [], size_of_epoch=size_of_epoch)
    batches = data.dataset(8)
    data.begin(1)
    with pytest.raises(Exception, match="epoch 1 has 12 px; received 8"):
        next(iter(batches))


def test_the_last_stage_names_its_size(raw):
    data = stream(raw, [("pad_crop", {"padding": 2})], size_of_epoch=size_of_epoch)
    names = [[stage.name for stage in data.stages(epoch, 0)[0]] for epoch in range(3)]
    plain = ["stored", "mirror", "pad_crop"]
    assert names == [[*plain, "8 px"], [*plain, "12 px"], plain]


def test_a_crop_alone_has_the_smaller_size_at_once(encoded):
    """The regions are the same, so the batch is that of a stream for small images."""
    crop = [("random_resized_crop", {})]
    sized = stream(encoded, crop, view=View(16), size_of_epoch=size_of_epoch)
    small = stream(encoded, crop, view=View(8))
    batches = sized.dataset(8)
    assert batches.element_spec[0].shape == (8, 8, 8, 3)
    (images, _), *_ = batches.as_numpy_iterator()
    np.testing.assert_array_equal(images, small.batch(0, 0)[0])
    np.testing.assert_array_equal(images, sized.batch(0, 0)[0])


@pytest.mark.parametrize("first", [[("random_resized_crop", {})], []], ids=["crop", "view"])
def test_what_follows_a_crop_sees_the_full_size(encoded, first):
    operations = [*first, ("random_erasing", {"probability": 1.0})]
    sized = stream(encoded, operations, view=View(16), size_of_epoch=size_of_epoch)
    full = stream(encoded, operations, view=View(16))
    (images, _), *_ = sized.dataset(8).as_numpy_iterator()
    np.testing.assert_array_equal(images, shrink_arrays(full.batch(0, 0)[0], 8))


@pytest.mark.parametrize(
    "operations", [[("pad_crop", {"padding": 2})], *OPERATIONS], ids=["crop", "boxes", "mixed"]
)
def test_what_follows_a_crop_may_have_a_size_of_its_own(encoded, operations):
    """A run whose largest size is below that of the model draws, crops and mixes at that size."""
    operations = [("random_resized_crop", {}), *operations]
    own = stream(encoded, operations, view=View(16), image_size=12, size_of_epoch=lambda epoch: 12)
    small = stream(encoded, operations, view=View(12))
    batches = own.dataset()
    assert batches.element_spec[0].shape == (8, 12, 12, 3)
    (images, labels), *_ = batches.as_numpy_iterator()
    np.testing.assert_array_equal(images, small.batch(0, 0)[0])
    np.testing.assert_array_equal(labels, small.batch(0, 0)[1])


def test_only_a_crop_gives_images_another_size(raw, encoded):
    for selection, operations in ((raw, [("random_resized_crop", {})]), (encoded, [])):
        with pytest.raises(TypeError, match="only where a crop reads images"):
            stream(selection, operations, view=View(16), image_size=12)
