"""The run beside plain PyTorch: its losses agree with ours, and it notices when they should not.

The tests that need torch and torchvision are skipped where they are not installed.
"""

import csv
import importlib
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_imnet64 import training_setup
from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.loading import load_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 3
SGD = 'optimizer={name="sgd",learning_rate=0.1}'  # in place of the demo's Muon
ROUNDING = 0.01  # of the classifier's update after three steps; rounding moved it by up to 5e-4


@pytest.fixture
def script(monkeypatch):
    """The module `torch_parity_run`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("torch_parity_run")


@pytest.fixture
def sides(script, small_recipe, data_dir, monkeypatch):
    """Makes both sides of a ResNet-10, whose rate rises in each of its first twelve steps.

    The rate is small: a rectifier that rounding opens changes the gradients of all that lies before
    it by a hundredth or so, and at a small rate that hardly reaches the classifier's.
    """
    pytest.importorskip("torch")
    importlib.import_module("torch_networks").torchvision_models()
    from torchvision import models
    from torchvision.models.resnet import BasicBlock

    from keras_imnet64.models import resnet

    ten = replace(resnet.VARIANTS["resnet18"], blocks=(1, 1, 1, 1))
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ten)
    theirs = partial(models.ResNet, BasicBlock, [1, 1, 1, 1])
    monkeypatch.setattr(models, "resnet18", theirs)
    recipe = small_recipe(
        model={"name": "resnet18", "stem": "small", "normalization": "dataset"},
        data={"batch_size": 8},
        loss={"l2": 0.03, "l2_of": "all", "label_smoothing": 0.1},
        optimizer={"learning_rate": 0.001, "momentum": 0.9, "nesterov": True},
        schedule={"name": "cosine", "warmup_epochs": 1},
    )
    return lambda momentum: script.both_sides(recipe, momentum, None, data_dir)


def updates_differ_by(script, setup, theirs):
    """(rows, distance of the classifier's updates relative to the update) of the first steps."""
    before, rows, distances = script.our_weights(setup)["fc.weight"], [], []
    for row, _ in zip(script.compare(setup, theirs), range(STEPS), strict=False):
        ours = script.our_weights(setup)["fc.weight"] - before
        other = theirs.network.network.fc.weight.detach() - before
        rows.append(row)
        distances.append(float((ours - other).norm() / other.norm()))
    return rows, distances


@pytest.mark.backend
def test_steps_agree_but_for_rounding_where_momentum_is_the_same(script, sides):
    rows, distances = updates_differ_by(script, *sides("keras"))
    assert max(distances) < ROUNDING
    assert [row.step for row in rows] == [1, 2, 3]
    assert rows[1].learning_rate == pytest.approx(2 * rows[0].learning_rate)
    assert rows[0].loss > rows[0].cross_entropy + 1  # the L2 term is a part of it
    assert rows[0].cross_entropy == pytest.approx(rows[0].torch_cross_entropy, rel=1e-4)
    for row in rows:
        assert row.loss == pytest.approx(row.torch_loss, rel=1e-4)
        assert row.cross_entropy == pytest.approx(row.torch_cross_entropy, rel=1e-3)


def test_plain_momentum_lags_behind_a_rate_that_changes(script, sides):
    """The second update has the first gradient at the second rate there, at the first here."""
    _, distances = updates_differ_by(script, *sides("torch"))
    assert distances[0] < ROUNDING < distances[1] / 5


def test_another_decay_would_be_seen(script, sides):
    setup, theirs = sides("keras")
    for group in theirs.update.optimizer.param_groups:
        group["weight_decay"] *= 3
    _, distances = updates_differ_by(script, setup, theirs)
    assert min(distances) > 2 * ROUNDING


def test_the_other_side_gets_the_same_batches_and_rates(script, small_recipe, data_dir):
    schedule = {"name": "cosine", "warmup_epochs": 0.5}  # three steps
    setup = training_setup(small_recipe(schedule=schedule), data_dir=data_dir)
    seen = []

    class Other:
        def step(self, images, labels, rate):
            seen.append((images, labels, rate))
            return script.Side(2.0, 1.0, 0.5)

    rows = list(islice(script.compare(setup, Other()), 3))
    assert [row.step for row in rows] == [1, 2, 3]
    rates = [0.05 / 3, 0.1 / 3, 0.05]
    np.testing.assert_allclose([row.learning_rate for row in rows], rates, rtol=1e-6)
    for number, (images, labels, rate) in enumerate(seen):
        expected = setup.stream.batch(0, number)
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
        assert rate == rows[number].learning_rate
    assert {(r.torch_loss, r.torch_cross_entropy, r.torch_seconds) for r in rows} == {(2, 1, 0.5)}


def test_the_penalty_is_that_of_each_variable(script, small_recipe, data_dir):
    """With three times the decay for a group, the penalty grows by twice that group's part."""
    groups = [{"variables": "logits/kernel", "weight_decay_factor": 3.0}]
    recipes = [small_recipe(loss={"l2": 0.1}, optimizer={"groups": g}) for g in ([], groups)]
    setups = [training_setup(recipe, data_dir=data_dir) for recipe in recipes]
    plain, grouped = map(script.our_penalty, setups)
    kernel = np.asarray(setups[0].network.get_layer("logits").get_weights()[0], "float64")
    assert plain > 1
    assert grouped - plain == pytest.approx(0.2 * np.sum(kernel**2), rel=1e-5)


def test_it_writes_losses_as_they_come_and_a_picture(script, tmp_path):
    rows = [script.Row(n, 0.1, 3.0 / n, 3.1 / n, 2.0 / n, 2.1 / n, 1.0, 1.0) for n in range(1, 9)]

    def until_it_breaks():
        yield from rows[:3]
        raise RuntimeError("the power fails")

    out = tmp_path / "broken"
    with pytest.raises(RuntimeError):
        script.write_rows(load_recipe("demo"), until_it_breaks(), out, 10, 60)
    with open(out / "losses.csv", encoding="utf-8", newline="") as file:
        assert [float(row["torch_loss"]) for row in csv.DictReader(file)] == [3.1, 1.55, 3.1 / 3]
    out = tmp_path / "whole"
    script.write_rows(load_recipe("demo"), iter(rows), out, 5, 60)
    assert len((out / "losses.csv").read_text().splitlines()) == 6
    assert np.asarray(Image.open(out / "losses.png")).std() > 1
    assert load_recipe(out / "recipe.toml").model == load_recipe("demo").model
    with pytest.raises(UserError, match="whole cannot be made"):
        script.write_rows(load_recipe("demo"), iter(rows), out, 5, 60)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (['augment=[{op="mixup"}]'], "two labels"),
        (["train.accumulate_steps=2"], "must be 1"),
        (["model.dropout=0.1"], "model.dropout=0"),
        (['schedule={name="plateau"}', "data.holdout=400"], "plateau"),
        (["train.sizes=[[0.0,32],[0.5,64]]"], "has no train.sizes"),
        ([], 'received optimizer "muon"'),
        ([SGD, 'loss.name="binary_cross_entropy"'], 'received loss.name "binary_cross_entropy"'),
        ([SGD, "optimizer.lookahead={steps=5}"], "has no optimizer.lookahead"),
        ([SGD, 'optimizer.groups=[{variables="logits"}]'], "has no optimizer.groups"),
    ],
)
def test_what_the_other_side_would_not_do_alike_is_refused(script, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        script.check_recipe(load_recipe("demo", overrides))


def test_plain_recipes_are_taken(script):
    script.check_recipe(load_recipe("tiny_resnet18"))
    script.check_recipe(load_recipe("demo", [SGD]))
