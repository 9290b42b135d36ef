"""Which images a run refuses, whatever its recipe says of their number."""

import numpy as np
import pytest
from toy_store import in_memory, random_images

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.selection import first_classes, select
from keras_imnet64.training.data import check_classes

STORE = in_memory(*random_images())  # of three classes


def check(recipe, labels=(0, 1, 2)):
    """Checks the classes of a recipe against validation images with these labels."""
    images, _ = random_images(len(labels))
    final = in_memory(images, np.array(labels, "int64"), split="validation")
    wnids = first_classes(STORE, recipe.data.classes) if recipe.data.classes else None
    check_classes(recipe, select(STORE, wnids), select(final, wnids))


def test_classes_that_exist_and_are_scored_are_taken(small_recipe):
    check(small_recipe())
    check(small_recipe(data={"classes": 2}))


def test_more_classes_than_there_are(small_recipe):
    with pytest.raises(UserError, match="must be at most 3, the classes of toy; received 500"):
        check(small_recipe(data={"classes": 500}))


def test_classes_without_validation_images(small_recipe):
    with pytest.raises(UserError, match="no validation image of these 2 classes"):
        check(small_recipe(data={"classes": 2}), labels=(2, 2))


def test_one_class(small_recipe):
    images, _ = random_images(2)
    alone = in_memory(images, np.zeros(2, "int64"), wnids=["a"], class_names=["ant"])
    with pytest.raises(UserError, match="toy has one class, and a classifier needs two"):
        check_classes(small_recipe(), select(alone), select(alone))


def test_a_threshold_that_no_target_of_so_many_classes_passes(small_recipe):
    loss = {"name": "binary_cross_entropy", "label_smoothing": 0.3, "target_threshold": 0.05}
    with pytest.raises(UserError, match=r"targets, 0\.1 and 0\.8; received 0\.05"):
        check(small_recipe(loss=loss))
