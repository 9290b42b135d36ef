"""The verdict by numbers alone, on trajectories and tensors made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import LOSSES, RATES, step_record, trajectory

from keras_imnet64.compare.records import (
    LayerCall,
    Yardstick,
    read_step,
    sample,
    write_step,
)
from keras_imnet64.compare.verdict import (
    TOLERANCES,
    coarser,
    compare_step,
    conclude,
    disturbance_of,
    mcnemar,
    paired_test,
    step_to_examine,
)

FLOAT32 = TOLERANCES["float32"]
NO_CHAOS = np.array([LOSSES] * 5)
APART = (0.0, 1e-8, 1e-4, 1e-3, 2e-3)  # of runs that start one last bit apart
CHAOS = np.array([LOSSES, *(np.add(LOSSES, k * np.array(APART) / 4) for k in (1, 2, 3, 4))])


def moved(*distances):
    return trajectory(np.add(LOSSES, distances))


def judge(b, runs=CHAOS, steps=(), a=None):
    return conclude(a or trajectory(), b, runs, list(steps), FLOAT32)


def test_losses_within_rounding_are_equal():
    verdict = judge(moved(1e-8, 0, 1e-6, 0, 1.5e-5), runs=NO_CHAOS)
    assert verdict.in_words == "equal" and verdict.parting_step is None
    assert verdict.yardstick == 0


def test_what_parts_no_further_than_runs_one_bit_apart_is_chaos():
    """At most twice the largest distance of the runs, 2e-3."""
    verdict = judge(moved(0, 1e-6, 1e-3, 1e-3, 3.9e-3))
    assert verdict.in_words == "equal within chaos"
    assert (verdict.parting_step, verdict.yardstick) == (2, pytest.approx(2e-3))
    beyond = judge(moved(0, 1e-6, 1e-3, 1e-3, 4.1e-3))
    assert beyond.answer == "different" and "2.0 times the yardstick" in beyond.in_words


def test_sides_that_round_differently_in_each_step_are_held_against_a_second_yardstick():
    """The losses diverge by 4.1e-3, more than twice 2e-3; runs disturbed by 1e-6 part by 2.1e-3."""
    far = moved(0, 1e-6, 1e-3, 1e-3, 4.1e-3)
    assert judge(far).is_unexplained
    runs = Yardstick((tuple(np.add(LOSSES, (0, 0, 0, 0, 2.1e-3))),), disturbance=1e-6)
    found = conclude(trajectory(), far, CHAOS, [], FLOAT32, runs)
    assert found.in_words == "equal within chaos" and not found.is_unexplained
    assert (found.disturbance, found.second_yardstick) == (1e-6, pytest.approx(2.1e-3))
    close = Yardstick((LOSSES, tuple(np.add(LOSSES, (0, 0, 0, 0, 1e-3)))), disturbance=1e-6)
    found = conclude(trajectory(), far, CHAOS, [], FLOAT32, close)
    assert "2.0 times the yardstick and 4.1 times the second one" in found.in_words


def test_the_disturbance_is_what_a_typical_output_differs_by():
    """The median of 4 outputs of a step: 0, 1e-5, 3e-5 and 0.1, which is a single layer's."""
    record = step_record()
    scales = [np.abs(array).max() for array in record.activations]
    other = record
    for index, size in enumerate((0, 1e-5, 3e-5, 0.1)):
        array = record.activations[index].astype("float64")
        array.flat[0] += size * scales[index]
        other = changed(other, "activations", index, array)
    step = compare_step(record, other, FLOAT32)
    assert disturbance_of([step]) == pytest.approx(2e-5, rel=0.1)
    assert disturbance_of([compare_step(record, record, FLOAT32)]) == 2**-23


def test_the_step_to_examine_is_the_one_that_chaos_does_not_explain():
    allowed = {"a": trajectory(), "runs": CHAOS, "tolerance": FLOAT32}
    assert step_to_examine(b=trajectory(), **allowed) is None
    assert step_to_examine(b=moved(0, 0, 1e-3, 0, 0), **allowed) == 2  # chaos, where it is visible
    assert step_to_examine(b=moved(0, 1e-3, 0, 0, 1e-2), **allowed) == 1
    assert step_to_examine(b=moved(0, 0, 1.9e-4, 1.9e-3, 1e-2), **allowed) == 4


def test_chaos_of_earlier_steps_explains_later_ones_too():
    """Runs that part in the third step and come together again might as well have stayed apart."""
    runs = np.array([LOSSES, np.add(LOSSES, (0, 0, 1e-3, 0, 0))])
    found = step_to_examine(trajectory(), moved(0, 0, 0, 1.9e-3, 1e-2), runs, FLOAT32)
    assert found == 4
    assert step_to_examine(trajectory(), moved(0, 1e-3, 0, 0, 1e-2), runs, FLOAT32) == 1


def test_a_difference_from_the_same_state_is_no_chaos():
    record = step_record(step=3)
    other = changed(record, "activations", 1, record.activations[1] * 1.01)
    step = compare_step(record, other, FLOAT32)
    verdict = judge(moved(0, 0, 1e-3, 1e-3, 1e-3), steps=[step])
    assert verdict.in_words.startswith("different from step 4 in layer norm: forward")
    assert verdict.cause.size == pytest.approx(0.01, rel=0.01)


def changed(record, kind, key, value):
    """The record with one of its tensors replaced."""
    tensors = getattr(record, kind)
    if kind == "activations":
        tensors = tuple(value if i == key else t for i, t in enumerate(tensors))
    else:
        tensors = tensors | {key: value}
    return replace(record, **{kind: tensors})


def test_rounding_is_no_difference():
    record = step_record()
    rng = np.random.default_rng(0)
    near = lambda array: array * (1 + 1e-6 * rng.standard_normal(array.shape))  # noqa: E731
    other = replace(
        record,
        activations=tuple(map(near, record.activations)),
        gradients={p: near(g) for p, g in record.gradients.items()},
        updates={p: near(u) for p, u in record.updates.items()},
    )
    assert compare_step(record, other, FLOAT32).first is None


def test_tensors_that_are_zero_but_for_rounding_do_not_differ():
    """A bias before batch normalisation has no gradient, a moving mean may be nothing."""
    record = step_record()
    other = changed(record, "gradients", "conv/bias", -record.gradients["conv/bias"])
    other = changed(other, "statistics", "norm/moving_mean", -record.statistics["norm/moving_mean"])
    assert compare_step(record, other, FLOAT32).first is None


@pytest.mark.parametrize(
    ("kind", "key", "stage", "words"),
    [
        ("activations", 2, "forward", "layer relu: forward"),
        ("statistics", "norm/moving_variance", "statistics", "layer norm: forward, its moving_var"),
        ("gradients", "norm/gamma", "backward", "layer norm: backward, the gradient of its gamma"),
        ("updates", "logits/kernel", "update", "the optimizer: its update of logits/kernel"),
    ],
)
def test_the_first_tensor_that_differs_is_named(kind, key, stage, words):
    record = step_record()
    tensors = getattr(record, kind)
    step = compare_step(record, changed(record, kind, key, tensors[key] * 1.1), FLOAT32)
    assert step.first.stage == stage
    found = judge(trajectory(), steps=[step])
    assert found.in_words.startswith(f"different from step 1 in {words}")


def test_forward_comes_before_backward_and_the_last_gradient_before_the_first():
    record = step_record()
    other = record
    for path in record.gradients:
        other = changed(other, "gradients", path, record.gradients[path] * 2)
    assert compare_step(record, other, FLOAT32).first.where == "logits/kernel"
    other = changed(other, "activations", 3, record.activations[3] + 1)
    assert compare_step(record, other, FLOAT32).first.where == "logits"


def with_kinks():
    record = step_record()
    return replace(record, held=dict(record.gradients))


def test_gradients_may_differ_where_outputs_lie_on_both_sides_of_a_kink():
    """Those with the same inputs there may not."""
    record = with_kinks()
    gradient = record.gradients["norm/gamma"]
    other = changed(record, "gradients", "norm/gamma", gradient * 1.005)
    assert compare_step(record, other, FLOAT32).first is None
    other = changed(record, "held", "norm/gamma", gradient * 1.005)
    found = compare_step(record, other, FLOAT32)
    assert (found.first.stage, found.first.where) == ("backward", "norm/gamma")


def test_kinks_do_not_explain_every_gradient():
    """One that only the whole step gets wrong."""
    record = with_kinks()
    swapped = record.gradients["norm/gamma"][::-1]
    found = compare_step(record, changed(record, "gradients", "norm/gamma", swapped), FLOAT32)
    words = judge(trajectory(), steps=[found]).in_words
    assert words.startswith("different from step 1 in layer norm: backward, the gradient of its ga")
    assert "more than kinks explain" in words


def test_a_network_of_other_layers_differs_in_the_first_of_them():
    record = step_record()
    calls = (record.facts.calls[0], replace(record.facts.calls[1], name="other_norm"))
    other = replace(record, facts=replace(record.facts, calls=calls))
    assert compare_step(record, other, FLOAT32).first.where == "norm"


def test_dropout_is_said_to_draw_its_own_masks():
    record = step_record()
    calls = (*record.facts.calls[:2], LayerCall("drop", "Dropout"), record.facts.calls[3])
    record = replace(record, facts=replace(record.facts, calls=calls))
    other = changed(record, "activations", 2, record.activations[2] * 2)
    words = judge(trajectory(), steps=[compare_step(record, other, FLOAT32)]).in_words
    assert "layer drop: forward" in words and "each backend draws its own masks" in words


def test_numbers_that_are_not_finite_differ():
    record = step_record()
    other = changed(record, "activations", 0, record.activations[0] * np.nan)
    assert compare_step(record, other, FLOAT32).first.where == "conv"


def test_what_a_last_bit_changes_may_change_more_between_programs():
    """Ten times as much; images are the same to the bit all the same."""
    record = step_record()

    def scaled(factor):
        return changed(record, "gradients", "norm/gamma", record.gradients["norm/gamma"] * factor)

    near = scaled(1.0006)
    assert compare_step(record, scaled(1.003), FLOAT32).first.where == "norm/gamma"
    assert compare_step(record, scaled(1.003), FLOAT32, near).first is None
    assert compare_step(record, scaled(1.01), FLOAT32, near).first.where == "norm/gamma"
    other = replace(record, images=record.images + 1)
    near = replace(record, images=record.images + 2)
    assert compare_step(record, other, FLOAT32, near).first.where == "images"


def test_another_batch_is_named_as_the_input_of_its_step():
    digests = [*trajectory().digests]
    digests[2] = "another"
    words = judge(trajectory(digests=tuple(digests))).in_words
    assert words.startswith("different from step 3 in the input")
    record = step_record()
    other = replace(record, images=record.images + 1)
    assert compare_step(record, other, FLOAT32).first.where == "images"


@pytest.mark.parametrize(
    ("rates", "step", "note"),
    [
        ((*RATES[1:], 0.05), 1, "each rate one step early"),
        ((0.05, *RATES[:-1]), 1, "each rate one step late"),
        ((*RATES[:3], 0.25, RATES[4]), 4, ""),
    ],
)
def test_another_rate_is_named_with_its_step(rates, step, note):
    words = judge(trajectory(rates=rates)).in_words
    assert words.startswith(f"different from step {step} in the learning rate")
    assert note in words and ("one step" in words) == bool(note)


def test_another_start_is_named():
    other = trajectory(start_difference=0.5, start_variable="conv/kernel")
    assert "the start: the initial weights of conv/kernel" in judge(other).in_words


def test_bfloat16_on_one_side_widens_the_tolerance():
    assert TOLERANCES[coarser(["float32", "float32"])].forward < 1e-3
    assert TOLERANCES[coarser(["float32", "mixed_bfloat16"])].forward > 1e-2


def test_a_step_is_read_as_it_was_written(tmp_path):
    record = step_record(step=4)
    write_step(tmp_path / "step.npz", record)
    found = read_step(tmp_path / "step.npz")
    assert found.facts == record.facts
    assert compare_step(record, found, FLOAT32).first is None
    assert [d.size for d in compare_step(record, found, FLOAT32).differences if d.size] == []


def test_a_large_tensor_is_sampled_alike_on_all_sides():
    large = np.arange(500_000)
    kept = sample(large, "a/kernel")
    assert 60_000 < len(kept) <= 2**16 and len(np.unique(kept)) == len(kept)
    assert np.array_equal(kept, sample(large.reshape(500, 1000), "a/kernel"))
    assert np.array_equal(sample(large[:9], "b"), np.arange(9))


def test_mcnemar_is_the_binomial_test():
    """Of 8 images that one of the two alone recognises, 1 against 7: 2 * (1 + 8) / 2^8."""
    assert mcnemar(1, 7) == pytest.approx(18 / 256) == mcnemar(7, 1)
    assert mcnemar(4, 4) == mcnemar(0, 0) == 1.0
    assert mcnemar(100, 200) < 1e-8


def test_models_are_compared_image_by_image():
    first, second = np.array([0, 1, 2, 3, 3]), np.array([0, 1, 1, 0, 3])
    labels = np.array([0, 1, 1, 3, 0])
    found = paired_test(first, second, first == labels, second == labels)
    assert (found.only_first, found.only_second, found.agreement) == (1, 1, 0.6)
