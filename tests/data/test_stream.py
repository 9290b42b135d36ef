"""Streams of batches: resumable at any step, each image once, equal to order, draws and crops."""

import numpy as np
import pytest
from selected_images import images_of
from toy_store import in_memory

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.parts import Part
from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.order import epoch_draws, epoch_order
from keras_imnet64.data.selection import first_classes, select, split_holdout
from keras_imnet64.data.stream import TrainingStream, evaluation_batches, image_tensor


def tiny_store(count=50, size=4, classes=5):
    """A store whose image i is filled with i, which identifies the images of a batch."""
    images = np.broadcast_to(
        np.arange(count, dtype="uint8")[:, None, None, None], (count, size, size, 3)
    )
    wnids = [f"n{9 - k}" for k in range(classes)]
    labels = np.arange(count, dtype="int32") % classes
    return in_memory(
        np.ascontiguousarray(images), labels, wnids=wnids, class_names=[w.upper() for w in wnids]
    )


def stream(**options):
    options = {"batch_size": 8, "mirror": "random"} | options
    return TrainingStream(select(tiny_store()), **options)


def read(batches):
    return [(images.copy(), labels.copy()) for images, labels in batches.as_numpy_iterator()]


def test_an_epoch_has_all_whole_batches_and_no_image_twice():
    batches = read(stream().dataset())
    assert [len(labels) for _, labels in batches] == [8] * 6
    ids = np.concatenate([images[:, 0, 0, 0] for images, _ in batches])
    assert len(set(ids.tolist())) == 48
    assert all((images[:, 0, 0, 0] % 5 == labels).all() for images, labels in batches)


@pytest.mark.parametrize("mirror", ["random", "alternating"])
@pytest.mark.parametrize("ops", [["pad_crop"], ["trivial_augment", "mixup_or_cutmix"]])
def test_a_stream_from_a_step_is_the_tail_of_the_epoch(ops, mirror):
    options = {"pad_crop": {"padding": 2}}
    steps = [check_augment(op, options.get(op, {})) for op in ops]
    data = stream(augmentation=steps, mirror=mirror, seed=3)
    batches = data.dataset()
    data.begin(2)
    whole = read(batches)
    for step in (1, 3, 5):
        data.begin(2, step)
        tail = read(batches)
        assert len(tail) == 6 - step
        for (a, la), (b, lb) in zip(whole[step:], tail, strict=True):
            assert np.array_equal(a, b)
            assert np.array_equal(la, lb)


@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_follow_order_draws_mirror_and_crop(repeats):
    """Compares each image with the drawn slice of the mirrored, padded image."""
    store = tiny_store()
    store.images = np.random.default_rng(0).integers(0, 256, store.images.shape, "uint8")
    crop = check_augment("pad_crop", {"padding": 2, "fill": "zero"})
    data = TrainingStream(
        select(store),
        batch_size=8,
        seed=5,
        mirror="random",
        repeats=repeats,
        augmentation=[crop],
    )
    assert data.steps_per_epoch == 6
    order, mirrored = epoch_order(50, "random", 5, 1, repeats)
    draws = epoch_draws([crop], 50, 4, 5, 1)[0]
    data.begin(1)
    for step, (images, labels) in enumerate(read(data.dataset())):
        for row, sample in enumerate(range(step * 8, step * 8 + 8)):
            image = store.images[order[sample]]
            image = image[:, ::-1] if mirrored[sample] else image
            padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
            top, left = draws["top"][sample], draws["left"][sample]
            assert np.array_equal(images[row], padded[top : top + 4, left : left + 4])
            assert labels[row] == store.labels[order[sample]]
    assert mirrored[:48].any()
    assert not mirrored[:48].all()


def test_mapped_unaligned_and_read_only_arrays_become_the_same_tensor(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype="uint8")
    np.save(tmp_path / "images.npy", images)
    mapped = np.asarray(np.load(tmp_path / "images.npy", mmap_mode="r"))
    shifted = np.concatenate([np.zeros(1, "uint8"), images.ravel()])[1:].reshape(images.shape)
    read_only = images.copy()
    read_only.flags.writeable = False
    for array in (mapped, shifted, read_only, images):
        tensor = image_tensor(array)
        assert np.array_equal(tensor[4].numpy(), images[4])
    del mapped, shifted, read_only, array
    assert np.array_equal(tensor.numpy(), images)


def test_mixing_gives_pairs_of_labels():
    data = stream(augmentation=[check_augment("cutmix", {})], mirror="both", batch_size=10)
    for images, labels in read(data.dataset()):
        assert labels.shape == (10, 3)
        first, second, share = labels.T
        # Each stored image has one value, which gives its label: count pixels by their label.
        own = (images[..., 0] % 5 == first[:, None, None]).mean(axis=(1, 2))
        other = (images[..., 0] % 5 == second[:, None, None]).mean(axis=(1, 2))
        differ = first != second
        np.testing.assert_allclose(own[differ], share[differ], atol=1e-6)
        np.testing.assert_allclose(other[differ], 1 - share[differ], atol=1e-6)
        assert differ.any()


def test_epochs_differ():
    data = stream()
    batches = data.dataset()
    first = read(batches)
    data.begin(1)
    assert not np.array_equal(first[0][0], read(batches)[0][0])


def test_mirror_both_doubles_the_epoch():
    assert stream(mirror="both").steps_per_epoch == 12


def test_steps_per_epoch_ends_an_epoch_early():
    assert len(read(stream(steps_per_epoch=2).dataset())) == 2


@pytest.mark.parametrize("step", [-1, 6])
def test_a_step_beyond_the_epoch_is_refused(step):
    with pytest.raises(UserError, match=f"step must be 0 to 5; received {step}"):
        stream().batch(0, step)


@pytest.mark.parametrize("epoch", [-1, 0.5, "0", None])
def test_what_is_no_epoch_is_refused(epoch):
    with pytest.raises(UserError, match="epoch must be a whole number from 0; received"):
        stream().batch(epoch, 0)


@pytest.mark.parametrize("step", [1.5, "1", None])
def test_what_is_no_step_is_refused(step):
    with pytest.raises(UserError, match="step must be a whole number; received"):
        stream().batch(0, step)


@pytest.mark.parametrize("batch_size", [7, 25, 50, 64])
def test_evaluation_gives_every_image_weight_one_once(batch_size):
    batches = list(evaluation_batches(select(tiny_store()), batch_size).as_numpy_iterator())
    assert all(len(images) == batch_size for images, _, _ in batches)
    images, labels, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    real = weights == 1
    assert sorted(images[real, 0, 0, 0].tolist()) == list(range(50))
    assert (weights[~real] == 0).all()
    assert (labels[real] == images[real, 0, 0, 0] % 5).all()


def test_first_classes_are_relabelled_in_sorted_order():
    store = tiny_store()  # wnids n9, n8, n7, n6, n5 in label order
    chosen = select(store, first_classes(store, 2))
    assert chosen.wnids == ["n5", "n6"]
    assert chosen.class_names == ["N5", "N6"]
    images, labels = images_of(chosen)
    assert len(chosen) == 20
    assert {
        (int(i) % 5, int(label)) for i, label in zip(images[:, 0, 0, 0], labels, strict=True)
    } == {
        (4, 0),
        (3, 1),
    }


def test_holdout_and_train_share_no_image():
    train, held_out = split_holdout(select(tiny_store()), 10)
    ids = [set(images_of(part)[0][:, 0, 0, 0].tolist()) for part in (train, held_out)]
    assert len(ids[0]) == 40
    assert len(ids[1]) == 10
    assert not ids[0] & ids[1]
    with pytest.raises(UserError, match="at most 49"):
        split_holdout(select(tiny_store()), 50)


# ------------------------------------------------------------------------------ parts of batches

MIXES = [
    [],
    ["pad_crop", "mixup"],
    ["cutmix"],
    ["trivial_augment", "mixup_or_cutmix"],
    ["mixup of a batch"],
]


def steps_named(names):
    options = {"pad_crop": {"padding": 2}, "mixup of a batch": {"per": "batch"}}
    return [check_augment(name.split()[0], options.get(name, {})) for name in names]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("names", MIXES)
def test_parts_are_the_rows_of_whole_batches_and_read_little_more(names, count, monkeypatch):
    """Several processes together see what one would; partners in mixing are read twice at most."""
    read_rows = []
    read_images = TrainingStream._read_images

    def counting(self, size, samples):
        read_rows.append(samples.positions.shape[0])
        return read_images(self, size, samples)

    monkeypatch.setattr(TrainingStream, "_read_images", counting)
    options = {"augmentation": steps_named(names), "seed": 3}
    whole_batch = stream(**options).batch(1, 2)
    parts = [stream(**options, part=Part(i, count)) for i in range(count)]
    found = [part.batch(1, 2) for part in parts]
    for arrays, expected in zip(zip(*found, strict=True), whole_batch, strict=True):
        assert np.array_equal(np.concatenate(arrays), expected)
    whole, *of_parts = read_rows
    assert whole == 8
    assert of_parts == [(16 if names else 8) // count] * count
    assert np.array_equal(parts[1].positions(1, 2), stream(**options).positions(1, 2))


@pytest.mark.parametrize("names", [["pad_crop"], ["mixup_or_cutmix"]])
def test_the_pipeline_of_a_part_yields_what_its_batches_are(names):
    part = stream(augmentation=steps_named(names), part=Part(1, 2))
    part.begin(1, 3)
    for step, (images, labels) in enumerate(read(part.dataset()), start=3):
        expected, expected_labels = part.batch(1, step)
        assert images.shape == (4, 4, 4, 3)
        assert np.array_equal(images, expected)
        assert np.array_equal(labels, expected_labels)
    assert step == 5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_an_evaluation_have_each_image_once(count):
    batches = [
        read_weighted(evaluation_batches(select(tiny_store(50)), 16, part=Part(i, count)))
        for i in range(count)
    ]
    assert {len(part) for part in batches} == {4}
    ids = np.concatenate([np.concatenate(part) for part in batches])
    assert sorted(ids.tolist()) == list(range(50))


def read_weighted(batches):
    """Ids of the images of each batch whose weight is 1."""
    return [images[weights > 0, 0, 0, 0] for images, _, weights in batches.as_numpy_iterator()]
