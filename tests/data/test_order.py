"""The data order depends on seed, epoch and position alone."""

import numpy as np
import pytest

from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.order import epoch_draws, epoch_order, holdout_positions

ORDER = [3, 4, 7, 8, 5, 0, 2, 6, 9, 1]
MIRRORED = [0, 1, 0, 1, 1, 1, 1, 1, 0, 0]

TOP = [0, 5, 7, 7, 7, 2]
LEFT = [0, 1, 0, 8, 4, 0]
HELD_OUT = [8, 10, 13]


def test_random_mirror_has_every_image_once():
    images, mirrored = epoch_order(1000, "random", seed=0, epoch=0)
    assert sorted(images) == list(range(1000))
    assert 400 < mirrored.sum() < 600


def test_mirror_both_has_every_image_and_its_mirror_image_once():
    images, mirrored = epoch_order(100, "both", seed=0, epoch=0)
    assert len(set(zip(images.tolist(), mirrored.tolist(), strict=True))) == 200


def test_alternating_mirror_repeats_every_other_epoch():
    def mirrored_images(epoch):
        images, mirrored = epoch_order(1000, "alternating", seed=0, epoch=epoch)
        assert sorted(images) == list(range(1000))
        return set(images[mirrored])

    assert mirrored_images(0) == mirrored_images(2)
    assert mirrored_images(1) == mirrored_images(5) == set(range(1000)) - mirrored_images(0)
    assert 400 < len(mirrored_images(0)) < 600


def test_repeats_take_the_images_of_a_permutation_in_its_order():
    once, _ = epoch_order(10, "random", seed=3, epoch=5)
    images, mirrored = epoch_order(10, "random", seed=3, epoch=5, repeats=3)
    assert images.tolist() == [3, 3, 3, 4, 4, 4, 7, 7, 7, 8]
    assert once.tolist() == ORDER and mirrored.astype(int).tolist() == MIRRORED


def test_repeats_show_every_image_over_the_epochs_each_time_mirrored_anew():
    seen, differing = set(), 0
    for epoch in range(40):
        images, mirrored = epoch_order(90, "random", seed=0, epoch=epoch, repeats=3)
        assert len(images) == 90 and np.bincount(images).tolist().count(3) == 30
        seen |= set(images.tolist())
        copies = mirrored.reshape(30, 3)
        differing += (copies.min(1) != copies.max(1)).sum()
    assert seen == set(range(90))
    assert 0.7 < differing / 1200 < 0.8  # 3/4


def test_repeats_are_those_of_timms_sampler(peer_torch):
    """What its 4 processes draw for each step, together, for the same permutation."""
    sampler = pytest.importorskip("timm.data.distributed_sampler").RepeatAugSampler
    images, _ = epoch_order(512, "none", seed=0, epoch=0, repeats=3)
    parts = [
        list(sampler(range(512), num_replicas=4, rank=rank, shuffle=False)) for rank in range(4)
    ]
    order, _ = epoch_order(512, "none", seed=0, epoch=0)
    theirs = order[np.array(parts).T.reshape(-1)]  # theirs do not shuffle here
    assert theirs.tolist() == images.tolist()


def test_without_mirror_nothing_is_mirrored():
    assert not epoch_order(100, "none", seed=0, epoch=0)[1].any()


def test_order_and_draws_repeat_and_differ_by_seed_and_epoch():
    steps = [check_augment("pad_crop", {"padding": 4})]

    def everything(seed, epoch):
        draws = epoch_draws(steps, 50, 64, seed, epoch)[0]
        return np.stack([*epoch_order(50, "random", seed, epoch), draws["top"], draws["left"]])

    assert np.array_equal(everything(0, 1), everything(0, 1))
    assert not np.array_equal(everything(0, 1), everything(0, 2))
    assert not np.array_equal(everything(0, 1), everything(1, 1))


def test_frozen_order():
    """A change of these numbers would break the resumption of every existing run."""
    images, mirrored = epoch_order(10, "random", seed=3, epoch=5)
    assert images.tolist() == ORDER
    assert mirrored.astype(int).tolist() == MIRRORED


def test_frozen_draws_and_holdout():
    """As above; comparisons between runs need the same holdout too."""
    draws = epoch_draws([check_augment("pad_crop", {"padding": 4})], 6, 64, seed=3, epoch=5)[0]
    assert draws["top"].tolist() == TOP
    assert draws["left"].tolist() == LEFT
    assert holdout_positions(20, 3)[1].tolist() == HELD_OUT


def test_the_same_operation_twice_draws_independently():
    steps = [check_augment("pad_crop", {"padding": 4})] * 2
    first, second = epoch_draws(steps, 100, 64, 0, 0)
    assert not np.array_equal(first["top"], second["top"])


def test_holdout_is_a_fixed_part_of_train():
    train, held_out = holdout_positions(100, 10)
    assert len(held_out) == 10
    assert sorted([*train, *held_out]) == list(range(100))
    assert np.array_equal(held_out, holdout_positions(100, 10)[1])
