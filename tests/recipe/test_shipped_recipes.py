"""Every shipped recipe: two real steps of a narrow one on stand-ins.

Built at full size they are in test_costs. Recipes that differ in numbers alone are one kind, and of
the kinds so many are run as have every mechanism between them: a family of networks, an option of a
loss, an optimizer or a way of training. The others are set up here, and of them the slow runs take
those that combine the options of a section as no other recipe does.
"""

import json

import keras
import numpy as np
import pytest
from conftest import WNIDS, write_images

from keras_imnet64 import training_setup
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models import build_model, resnet
from keras_imnet64.recipe.loading import check_recipe, list_recipes, load_recipe
from keras_imnet64.training.build import optimizer_for
from keras_imnet64.training.fit import fit

IS_JAX = keras.backend.backend() == "jax"
PLAIN = ("alexnet", "vgg16", "vgg16_bn", "tiny_cnn1", "tiny_cnn2")  # one family: layer on layer
MIXING = ("mixup", "cutmix", "mixup_or_cutmix")  # which give labels that the loss must take


def narrow(name):
    """(image size, content) of a recipe: all of it but its network's size, classes and length."""
    recipe = load_recipe(name)
    content = recipe.model_dump(exclude_none=True, exclude={"name", "reference", "measured"})
    network, factor = content["model"], 1
    if network["name"] == "spectral":  # one branch of four
        network["factor"], network["band"] = factor, _ = 2, 1
        network = network["base"]
    if network["name"] == "wide_resnet":
        size = 16
        stages = network.get("stages", "auto")
        network |= {"width": 0.5, "depth": 4 + 2 * (2 if stages == "auto" else stages)}
    else:  # whose widths are not ours to change; 32 pixels also stand in for JPEGs
        if network["name"] == "small_resnet":
            network |= {"widths": [16, 32], "blocks": [1, 1]}
        size = min(find_dataset(recipe.data.dataset).image_size or 32, 32)
    size *= factor
    content["data"] |= {
        "dataset": f"imagenet_resized/{size}x{size}",
        "batch_size": 8,
        "steps_per_epoch": 2,
        "holdout": min(8, recipe.data.holdout),
        "classes": min(len(WNIDS), recipe.data.classes or len(WNIDS)),
    }
    content["data"].pop("image_size", None)
    content["evaluation"] = {"ten_crop": recipe.evaluation.ten_crop}
    content["train"] |= {"epochs": 1}
    if recipe.train.sizes:
        *_, (_, last) = recipe.train.sizes
        content["train"]["sizes"] = [[0.0, size * last // recipe.image_size]]
    content["schedule"]["warmup_epochs"] = 0.0  # so short a run has none
    for option in ("warmup_learning_rate", "spans_warmup"):
        content["schedule"].pop(option, None)
    return size, without_what_jax_leaves(content) if IS_JAX else content


def with_a_file(content, size, folder):
    """The content, with the file of a network where the recipe takes its network from one."""
    if content["model"]["name"] != "file":
        return content
    network = {"depth": 6, "stages": 1, "width": 0.5}
    model = build_model("wide_resnet", image_size=size, num_classes=3, **network)
    model.save(folder / "model.keras")
    return content | {"model": content["model"] | {"path": str(folder / "model.keras")}}


def without_what_jax_leaves(content):
    """A recipe's loss, optimizer and precision; `test_optim` has schedules under JAX.

    Blocks of all families train under JAX in `test_training_parity`, so the network is a small one,
    but where a recipe takes it from a file. TensorFlow makes the batches under JAX too, of which
    the loss meets mixed labels alone.
    """
    small = {"name": "wide_resnet", "depth": 6, "stages": 1, "width": 0.5}
    data = ("dataset", "batch_size", "steps_per_epoch", "holdout", "classes")
    return content | {
        "model": content["model"] if content["model"]["name"] == "file" else small,
        "data": {key: content["data"][key] for key in data},
        "augment": [step for step in content["augment"] if step.get("op") in MIXING],
        "schedule": {"name": "constant"},
        "evaluation": {},
    }


def kind(value):
    """A value with words in place of its numbers, but for 0 and 1, which switch something off."""
    if isinstance(value, dict):
        return {key: kind(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [kind(inner) for inner in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "a number" if is_number and value not in (0, 1) else value


def kinds():
    """{content: names} of recipes that are the same but for numbers, stems and a ResNet's depth."""
    found = {}
    for name in list_recipes():
        _, content = narrow(name)
        network = content["model"].get("base", content["model"])
        if network["name"] in resnet.VARIANTS:  # of which `slimmer` leaves two
            network["name"] = f"ResNet, bottleneck {resnet.VARIANTS[network['name']].bottleneck}"
        # Of these each computes what it should in `test_networks`, `test_golden` and
        # `test_wide_resnet`; under TensorFlow a normalisation is measured on the data too.
        network |= dict.fromkeys(("stem", "window"), "any")
        if IS_JAX:
            content["model"]["normalization"] = "any"
        found.setdefault(json.dumps(kind(content), sort_keys=True), []).append(name)
    return found


def parts_of(content):
    """What may be new in a recipe: each part as JSON."""
    network, data = content["model"], content["data"]
    whole = ("normalization", "base")  # a base is a network as in other recipes
    parts = [
        {key: value for key, value in network.items() if key not in whole},
        network.get("base", {}),
        {"normalization": network["normalization"]},
        {"loss": content["loss"]},
        {"schedule": content["schedule"]},
        {key: content[key] for key in ("optimizer", "train")},
        {key: value for key, value in data.items() if key != "dataset"},
        *content["augment"],
        content["evaluation"],
    ]
    return {json.dumps(part, sort_keys=True) for part in parts}


def mechanisms_of(content):
    """What may fail for itself in training: each option of each section, as JSON.

    Those that are set up show their other augmentations and normalisations, and
    `test_scored_views` how they are scored.
    """
    network, base = content["model"], content["model"].get("base", content["model"])
    options = [
        {section: {key: "a number" if value == 1 and value is not True else value}}
        for section in ("loss", "schedule", "optimizer", "train", "data")
        for key, value in content[section].items()
        if value and key != "dataset"  # 0 and false switch an option off
    ]
    mechanisms = [
        {"family": "plain" if base["name"] in PLAIN else base["name"]},
        {"branches": network["name"] == "spectral"},
        *options,
        *({"mixing": step["op"]} for step in content["augment"] if step.get("op") in MIXING),
    ]
    return {json.dumps(mechanism, sort_keys=True) for mechanism in mechanisms}


def with_every_part(found, parts_of):
    """The names of few that have all parts between them: next is always that with most new ones.

    Of equals it is the one that has fewest in all, which compiles soonest.
    """
    parts = {content: parts_of(json.loads(content)) for content in found}
    left, chosen = set().union(*parts.values()), []
    while left:
        content = max(parts, key=lambda content: (len(parts[content] & left), -len(parts[content])))
        chosen.append(found[content])
        left -= parts[content]
    return chosen


KINDS = kinds()
RUN = with_every_part(KINDS, mechanisms_of)
COMBINED = [names for names in with_every_part(KINDS, parts_of) if names not in RUN]
SET_UP = [names for names in KINDS.values() if names not in RUN]


@pytest.mark.skipif(IS_JAX, reason="combinations are left out there")
def test_no_recipe_is_left_out_and_those_of_one_kind_differ_in_numbers_alone():
    assert sorted(name for names in KINDS.values() for name in names) == sorted(list_recipes())
    one = {"name": "sgd", "nesterov": True, "l2": 0.0, "scale": [0.08, 1.0], "parts": 1}
    assert kind(one) == one | {"scale": ["a number", 1.0]}
    assert kind(one | {"l2": 1e-4}) == kind(one | {"l2": 5e-4}) != kind(one)
    (of_demo,) = [names for names in KINDS.values() if "demo" in names]
    assert "wrn36_5" not in of_demo  # another optimizer
    (of_vgg,) = [names for names in KINDS.values() if "vgg16" in names]
    assert "alexnet" not in of_vgg


def test_what_is_run_has_every_part_of_every_recipe():
    """And no recipe whose parts are all in those that have more."""
    one = dict.fromkeys(("train", "loss", "optimizer", "schedule", "evaluation"), 1)
    one |= {"model": {"name": "a", "normalization": "x"}, "data": {}, "augment": [{"op": "b"}]}
    other = one | {"model": {"name": "c", "normalization": "y"}, "train": 2}
    mixed = one | {"model": {"name": "a", "normalization": "y"}, "train": 2}
    cut = one | {"augment": [{"op": "b"}, {"op": "d"}]}
    found = {json.dumps(content): [content] for content in (one, other, mixed, cut)}
    assert with_every_part(found, parts_of) == [[cut], [other]]
    for parts_in, run in ((mechanisms_of, RUN), (parts_of, RUN + COMBINED)):
        of_all, of_run = set(), set()
        for content, names in KINDS.items():
            parts = parts_in(json.loads(content))
            of_all |= parts
            of_run |= parts if names in run else set()
        assert of_run == of_all


def test_the_optimizer_and_the_rates_of_every_recipe_can_be_made():
    """With the numbers that the recipes state; below they train with other ones."""
    for name in list_recipes():
        recipe = load_recipe(name)
        first = float(optimizer_for(recipe, updates_per_epoch=10).learning_rate)
        assert 0 < first <= recipe.optimizer.learning_rate * 1.001, name


@pytest.mark.backend
@pytest.mark.parametrize(
    "names",
    [*RUN, *(pytest.param(names, marks=pytest.mark.slow) for names in COMBINED)],
    ids=" ".join,
)
def test_two_real_steps(names, tmp_path, slimmer):
    size, content = narrow(names[0])
    data_dir = write_images(tmp_path / "data", size, train=24, validation=10)
    content = with_a_file(content, size, tmp_path)
    run = fit(check_recipe(content | {"name": names[0]}), tmp_path / "run", data_dir=data_dir)
    assert [row["step"] for row in run.history] == ["2"]
    assert np.isfinite(float(run.history[0]["loss"]))
    assert run.metrics["model.keras"]["count"] == 10


@pytest.mark.skipif(IS_JAX, reason="combinations are left out there")
@pytest.mark.parametrize("names", SET_UP, ids=" ".join)
def test_model_and_first_batch_are_made(names, tmp_path, slimmer):
    """Of recipes whose mechanisms have all been run in others."""
    size, content = narrow(names[0])
    data_dir = write_images(tmp_path / "data", size, train=24, validation=10)
    content = with_a_file(content, size, tmp_path)
    setup = training_setup(check_recipe(content | {"name": names[0]}), data_dir=data_dir)
    images, labels = setup.stream.batch(0, 0)
    side, num_classes = setup.recipe.size_of_epoch(0), content["data"]["classes"]
    assert images.shape[1:] == (side, side, 3)
    assert setup.network.input_shape == (None, size, size, 3)
    assert setup.model.output_shape == (None, num_classes)
    assert labels.shape[0] == images.shape[0] and np.max(labels) < num_classes
