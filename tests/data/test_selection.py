"""Selections of selections: parts of some classes have images of these classes alone."""

from dataclasses import replace

import numpy as np
from toy_store import in_memory, random_images

from keras_imnet64.data.selection import select, split_holdout


def some_classes():
    """The classes c and b of eleven images, whose labels are 0, 1, 2, 0, 1, ... for a, b and c."""
    return select(in_memory(*random_images()), ["c", "b"])


def images_of(selection):
    """[(position in the store, label)] of a selection."""
    positions, labels = selection.look_up(np.arange(len(selection)))
    return list(zip(positions.tolist(), labels.tolist(), strict=True))


def test_a_holdout_of_some_classes_is_of_these_classes():
    chosen = some_classes()
    assert images_of(chosen) == [(1, 1), (2, 0), (4, 1), (5, 0), (7, 1), (8, 0), (10, 1)]
    train, held_out = split_holdout(chosen, 2)
    assert (len(train), len(held_out)) == (5, 2)
    assert sorted(images_of(train) + images_of(held_out)) == images_of(chosen)


def test_evenly_spaced_images_are_of_the_selection():
    chosen = some_classes()
    assert images_of(chosen.evenly_spaced(3)) == [(1, 1), (4, 1), (7, 1)]  # numbers 0, 2 and 4
    assert chosen.evenly_spaced(7) is chosen
    whole = select(in_memory(*random_images()))
    assert [position for position, _ in images_of(whole.evenly_spaced(3))] == [0, 3, 7]


def test_classes_without_images_are_named():
    chosen = some_classes()
    assert chosen.empty_classes == []
    lost = replace(chosen, positions=np.array([1, 4, 7]))
    assert lost.empty_classes == [chosen.class_names[0]]
