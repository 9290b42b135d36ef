"""Proofs of class orders: what counts as one, and what does not."""

import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.archives import imagenet_wnids
from keras_imnet64.data.sources.class_lists import (
    Labels,
    arrange,
    names_of,
    own_classes,
    proved_ids,
    wnid_in,
)

WNIDS = imagenet_wnids()
SORTED = sorted(WNIDS)


@pytest.mark.parametrize("order", [WNIDS, SORTED])
@pytest.mark.parametrize("spelling", [str, str.upper, lambda name: name.replace(" ", "_")])
def test_a_whole_list_of_names_in_a_known_order_is_a_proof(order, spelling):
    assert proved_ids([spelling(name) for name in names_of(order)]) == order


def test_no_position_of_the_two_orders_agrees_so_a_list_proves_one_alone():
    assert not any(a == b for a, b in zip(WNIDS, SORTED, strict=True))
    names = names_of(WNIDS)
    assert proved_ids(names[500:] + names[:500]) is None
    assert proved_ids(names[:999]) is None  # a part of the list proves nothing
    assert proved_ids([names[1], names[0], *names[2:]]) is None


def test_class_ids_prove_themselves():
    assert proved_ids(["n02119789", "n01440764"]) == ["n02119789", "n01440764"]
    assert proved_ids(["n02119789", "tench"]) is None


@pytest.mark.parametrize(
    ("name", "wnid"),
    [
        ("n01440764_18.JPEG", "n01440764"),
        ("train/n01440764/n01440764_18.JPEG", "n01440764"),
        ("n01440764_10026_n01440764.JPEG", "n01440764"),
        ("ILSVRC2012_val_00000293_n01440764.JPEG", "n01440764"),  # as the hub calls it
        ("ILSVRC2012_val_00000293.JPEG", "n01440764"),
        ("00001.jpg", None),
        ("n0144.jpg", None),
    ],
)
def test_names_of_imagenets_images_tell_their_class(name, wnid):
    assert wnid_in(name) == wnid


def labels_of(*labels, names=None):
    found = Labels("set", names)
    for number, label in enumerate(labels):
        found.add("train", label, f"image {number}")
    return found


def test_labels_of_a_published_set_become_positions_in_its_order():
    found = labels_of(0, 1, 0, names=[SORTED[0], WNIDS[0]])
    classes = arrange(found.class_ids(), "set", "imagenet_resized/64x64", WNIDS)
    assert [classes.ids[classes.positions[n]] for n in found.numbers["train"]] == [
        SORTED[0], WNIDS[0], SORTED[0],
    ]  # fmt: skip
    assert classes.names[0] == "kit fox" and len(classes.ids) == 1000
    classes = arrange(found.class_ids(), "set", "tiny_imagenet", [])
    assert classes.ids == sorted([SORTED[0], WNIDS[0]])


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (["n02119789", "fox"], 'class ids such as n02119789.* received "fox"; add classes.txt'),
        (["n02119789", "n02119789"], 'set names the class "n02119789" twice'),
        (["n02119789", "n00000001"], "has the class n00000001, which is not one of imagenet"),
    ],
)
def test_classes_that_are_not_imagenets_are_refused(ids, sentence):
    with pytest.raises(UserError, match=sentence):
        arrange(ids, "set", "imagenet_resized/64x64", WNIDS)


def test_ones_own_classes_are_sorted_unless_they_are_listed():
    assert own_classes(["b", "a"], "set", None).ids == ["a", "b"]
    assert own_classes(["10", "9"], "set", None).ids == ["9", "10"]
    classes = own_classes(["b", "a"], "set", ["b", "a"])
    assert classes.ids == ["b", "a"]
    np.testing.assert_array_equal(classes.positions, [0, 1])
    with pytest.raises(UserError, match="has a class without a name"):
        own_classes(["a", ""], "set", None)


def test_texts_have_the_order_of_the_list_of_classes():
    found = labels_of("bee", "ant", "bee", names=["cat", "bee", "ant"])
    assert found.numbers["train"] == [1, 2, 1] and found.class_ids() == ["cat", "bee", "ant"]
    with pytest.raises(UserError, match='image 0 is labelled "dog", which the list of classes lac'):
        labels_of("dog", names=["cat", "bee"])


def test_labels_that_contradict_each_other():
    with pytest.raises(UserError, match="mixes two kinds of labels: image 1 is labelled 'cat'"):
        labels_of(3, "cat")
    with pytest.raises(UserError, match=r"kinds of labels: image 1 is labelled 3, and .* texts"):
        labels_of("cat", 3)
    with pytest.raises(UserError, match=r"image 0 has the label 2, where 0\.\.1 are possible"):
        labels_of(2, names=["a", "b"])
    found = Labels("set")
    found.add("train", "n01440764", "row 1", "n01440764_1.JPEG")
    found.add("train", "n01440764", "row 2", "n02119789_1.JPEG")
    with pytest.raises(UserError, match="row 2 is labelled n01440764, but is of n02119789 by its"):
        found.class_ids()
    assert found.own_ids() == ["n01440764"]


@pytest.mark.parametrize("names", [["2", "0", "1"], ["cat", "0"]])
def test_a_number_that_is_the_name_of_another_class_is_refused(names):
    found = labels_of(1, 0, names=names)
    with pytest.raises(UserError, match=r'label 0, where .* has "0" in line 2|label 2.* line 1'):
        found.refuse_numbers_as_names()
    labels_of("0", names=names).refuse_numbers_as_names()  # texts are names


def test_numbers_in_their_own_place_and_other_numbers_are_names():
    labels_of(1, 0, names=["0", "1", "1984"]).refuse_numbers_as_names()


def test_ones_own_classes_of_imagenets_images():
    """The user's own classes for ImageNet's files: two breeds are one class, dog."""
    found = Labels("set")
    for label, name in (("dog", "n02085620_1.JPEG"), ("dog", "n02085782_2.JPEG"), ("cat", "a.png")):
        found.add("train", label, name, name)
    assert found.own_ids() == ["dog", "cat"]
    with pytest.raises(UserError, match=r'label "dog" is n02085620 for .* and n02085782 for'):
        found.class_ids()
    found = Labels("set")
    for label, name in ((0, "n02085620_1.JPEG"), (0, "n02085782_2.JPEG"), (1, "n02119789_1.JPEG")):
        found.add("train", label, name, name)
    assert found.own_ids() == ["0", "1"]
