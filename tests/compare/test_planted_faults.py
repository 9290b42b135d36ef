"""Faults that are planted in one side are named with their layer or cause, and nothing else is.

Both sides are trained in this process: they are what a side's own process runs.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.compare import worker
from keras_imnet64.compare.records import NUM_RUNS, scale_of
from keras_imnet64.compare.request import Request, StepTask
from keras_imnet64.compare.verdict import TOLERANCES, compare_step, conclude
from keras_imnet64.training import kernels, optim
from keras_imnet64.training.setup import build_setup

NUM_STEPS = 4
TOLERANCE = TOLERANCES["float32"]


def side_of(recipe, data_dir, folder, step=0):
    """A side and a task: to record a step. The first side in a folder makes the start."""
    start, folder_of_data = str(folder / "start.npz"), str(data_dir)
    request = Request(recipe.to_toml(), start, NUM_STEPS, "not written", data_dir=folder_of_data)
    side = worker.SideRun(request)
    state = folder / f"state-{step}.npz" if step else folder / "start.npz"
    shared = [str(folder / f"{kind}-{step}.npz") for kind in ("gradients", "kinks")]
    task = StepTask(step, str(state), *shared, "not written")
    return side, task


def train(recipe, data_dir, folder):
    """A side's trajectory and its record of the first step."""
    side, task = side_of(recipe, data_dir, folder)
    return SimpleNamespace(
        side=side, task=task, trajectory=side.trajectory(), record=side.record(task)
    )


@pytest.fixture(scope="module")
def reference(small_recipe, data_dir, tmp_path_factory):
    """The first side, and the yardstick."""
    folder = tmp_path_factory.mktemp("comparison")
    first = train(small_recipe(), data_dir, folder)
    runs = [first.trajectory.losses, *first.side.yardstick().losses]
    near = first.side.record(first.task, near="float32")
    return SimpleNamespace(folder=folder, first=first, runs=np.array(runs), near=near)


@pytest.fixture
def judged(reference, small_recipe, data_dir):
    """The verdict on a second side, which is made now."""

    def judge():
        second = train(small_recipe(), data_dir, reference.folder)
        step = compare_step(reference.first.record, second.record, TOLERANCE, reference.near)
        return conclude(
            reference.first.trajectory, second.trajectory, reference.runs, [step], TOLERANCE
        )

    return judge


@pytest.fixture
def alter(monkeypatch):
    """Changes the network that the next side builds."""

    def alter(change):
        def build(*arguments, **options):
            setup = build_setup(*arguments, **options)
            change(setup)
            return setup

        monkeypatch.setattr(worker, "build_setup", build)
        # A faster function in place of a layer would not call what is planted in it.
        for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization):
            monkeypatch.delitem(kernels.KERNELS, kind, raising=False)

    return alter


@pytest.mark.parametrize(("dtype", "bit"), [("float32", 2**-24), ("mixed_bfloat16", 2**-8)])
def test_weights_are_moved_by_a_last_bit_of_a_dtype(dtype, bit):
    """Down from 1 a float32 has half of the distance that it has up. All else stays."""
    weights = np.concatenate([np.ones(100), np.zeros(1)]).astype("float32")
    start = {"model/kernel": weights, "model/seed": np.arange(2, dtype="uint32")}
    start["optimizer/velocity"] = np.ones(2, "float32")
    moved = worker.one_bit_apart(start, 1, dtype)
    distances = set((moved["model/kernel"][:100] - 1).tolist())
    assert distances == ({-bit, 2 * bit} if dtype == "float32" else {-bit, bit})
    assert moved["model/kernel"].dtype == "float32" and moved["model/kernel"][100] == 0
    assert moved["model/seed"] is start["model/seed"]
    assert moved["optimizer/velocity"] is start["optimizer/velocity"]


@pytest.mark.backend
def test_a_disturbance_ends_with_its_step_and_keeps_what_the_step_adds():
    """A weight of 1 is moved by a quarter, and the step adds -0.5 to it."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, use_bias=False)])
    (weight,) = model.weights
    weight.assign(np.ones((8, 8)))
    disturbance = worker.Disturbance({"kernel": weight}, take_devices("1"), 0.25, number=1)
    disturbance.set_model(model)
    for after in (0.5, 0.0):
        disturbance.on_epoch_begin(0)
        before = after + 0.5
        found = set(ops.convert_to_numpy(weight).ravel().tolist())
        assert found == {0.75 * before, 1.25 * before}
        weight.assign_sub(np.full((8, 8), 0.5))
        disturbance.on_epoch_end(0)
        assert set(ops.convert_to_numpy(weight).ravel().tolist()) == {after}


@pytest.mark.backend
def test_disturbed_runs_part_as_far_as_the_disturbance_moves_them(reference):
    """The losses of the first step differ by about the disturbance; all steps are trained."""
    losses = np.array(reference.first.trajectory.losses)
    for size in (1e-6, 1e-3):
        found = reference.first.side.disturbed(size)
        distances = np.abs(np.array(found.losses) - losses)
        assert distances.shape == (NUM_RUNS - 1, NUM_STEPS)
        assert 0.01 * size < distances[:, 0].max() < 10 * size
        assert distances[:, -1].max() < 1000 * size


@pytest.mark.backend
def test_the_same_side_twice_is_equal_to_the_bit(reference, judged):
    verdict = judged()
    assert verdict.in_words == "equal" and verdict.distance == 0
    assert 0 < verdict.yardstick < 1e-2  # a last bit does something, and not much in four steps


def test_a_wrong_epsilon_is_named_with_its_layer(judged, alter):
    def change(setup):
        setup.network.get_layer("stage1_block1_2_bn").epsilon = 0.01

    alter(change)
    words = judged().in_words
    assert words.startswith("different from step 1 in layer stage1_block1_2_bn: forward"), words


@pytest.mark.slow
def test_another_padding_is_named_with_its_layer(judged, alter):
    def change(setup):
        layer = setup.network.get_layer("stage1_block1_conv1")

        def reflecting(x):
            x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
            return ops.conv(x, layer.kernel, strides=layer.strides, padding="valid")

        layer.call = reflecting

    alter(change)
    words = judged().in_words
    assert words.startswith("different from step 1 in layer stage1_block1_conv1: forward"), words


def test_a_swapped_gradient_is_named_with_its_layer(judged, alter):
    @ops.custom_gradient
    def swap(x):
        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            return ops.flip(upstream, axis=-1)

        return x, gradient

    def change(setup):
        layer = setup.network.get_layer("stage1_block1_conv1")
        plain = layer.call
        layer.call = lambda x: swap(plain(x))

    alter(change)
    words = judged().in_words
    assert words.startswith("different from step 1 in layer stage1_block1_conv1: backward"), words


@pytest.mark.slow
def test_another_draw_is_named_as_the_input(judged, alter):
    def change(setup):
        setup.stream.seed += 1

    alter(change)
    assert judged().in_words.startswith("different from step 1 in the input")


def test_a_rate_that_is_off_by_one_step_is_named(judged, monkeypatch):
    plain = optim.Schedule.__call__
    monkeypatch.setattr(optim.Schedule, "__call__", lambda self, step: plain(self, step + 1))
    words = judged().in_words
    assert words.startswith("different from step 1 in the learning rate"), words
    assert "each rate one step early" in words


def test_a_fault_of_the_optimizer_is_none_of_a_layer(judged, monkeypatch):
    plain = optim.SGD.apply_rule

    def apply_rule(self, gradient, variable, learning_rate):
        plain(self, gradient * 1.01, variable, learning_rate)

    monkeypatch.setattr(optim.SGD, "apply_rule", apply_rule)
    assert "different from step 1 in the optimizer: its update" in judged().in_words


def test_a_later_step_is_computed_from_the_state_before_it(reference, small_recipe, data_dir):
    """Its loss is that of the trajectory there, and so are its rate and its batch."""
    side, task = side_of(small_recipe(), data_dir, reference.folder, step=2)
    later, expected = side.record(task), reference.first.trajectory
    assert later.facts.loss == pytest.approx(expected.losses[2], rel=1e-6)
    assert later.facts.rate == pytest.approx(expected.rates[2])
    assert worker.digest(later.images, later.labels) == expected.digests[2]


@pytest.mark.backend
def test_gradients_and_updates_are_those_of_the_step(reference):
    """SGD adds minus the rate times the gradient, as the first step of `fit` does.

    The recorded optimizer has a momentum, and so variables of the same shapes as the one that
    stores gradients: neither may take what is compiled for the other.
    """
    side, record = reference.first.side, reference.first.record
    start = worker.read_arrays(reference.folder / "start.npz")
    side.assign(start)
    side.train(1, worker.Watch())
    after = side.read()
    for path, gradient in record.gradients.items():
        change = (after[f"model/{path}"] - start[f"model/{path}"]).reshape(-1)
        close = {"rtol": 1e-3, "atol": 2e-7, "err_msg": path}
        np.testing.assert_allclose(record.updates[path], change, **close)
        np.testing.assert_allclose(-record.facts.rate * gradient, change, **close)


@pytest.mark.backend
def test_gradients_with_held_inputs_are_those_of_the_step(reference):
    """On the side whose inputs of ReLUs they are."""
    record = reference.first.record
    assert set(record.held) == set(record.gradients)
    scale = scale_of(list(record.gradients.values()))
    for path, gradient in record.gradients.items():
        np.testing.assert_allclose(record.held[path], gradient, atol=1e-5 * scale, err_msg=path)


@pytest.mark.slow
def test_outputs_on_both_sides_of_a_kink_are_no_fault(small_recipe, data_dir, alter, tmp_path):
    """Outputs near zero become 1e-5 on one side and -1e-5 on the other: a ReLU passes half of them.

    They are a 2e-5th of the largest output apart, and gradients a hundredth of theirs.
    """
    sides = []
    for near_zero in (1e-5, -1e-5):

        def change(setup, near_zero=near_zero):
            layer = setup.network.get_layer("stage1_block1_2_bn")
            plain = layer.call

            def rounded(x, **options):
                y = plain(x, **options)
                is_near = ops.abs(y) < 0.0005
                return y + ops.stop_gradient(ops.where(is_near, near_zero - y, 0))

            layer.call = rounded

        alter(change)
        side, task = side_of(small_recipe(), data_dir, tmp_path)
        sides.append(side.record(task))
    step = compare_step(*sides, TOLERANCE)
    assert step.first is None, step.first
    assert step.largest("forward").size < 1e-4 and step.largest("backward").size < 1e-4
    assert step.largest("kinks").size > 1e-3
