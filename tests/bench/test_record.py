"""Medians, ratios and changes worked by hand; results that cannot be compared are refused."""

import json
from dataclasses import replace

import pytest

from keras_imnet64.bench.record import (
    BenchMachine,
    BenchRecord,
    Change,
    Ratio,
    Row,
    Subject,
    changes,
    check_comparable,
    differences,
    ratios_of,
    read_result,
    timing_of,
)
from keras_imnet64.bench.text import markdown, ratios_in_words, table
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.validation import to_json

MACHINE = BenchMachine("A CPU", 2, ("A GPU",))
SUBJECT = Subject("wrn", {"name": "wide_resnet", "depth": 12}, 64, 1000, 32)


def row(name, step, memory=100.0, dtype="float32", **changes):
    timings = {"forward": timing_of([step / 4]), "step": timing_of([step])}
    peer = name.startswith("torch")
    return Row(name, dtype, peer, ("CPU:0",), 5.0, memory, **timings | changes)


def record(*rows):
    return BenchRecord(
        SUBJECT, (), "random", MACHINE, {}, "2026-01-31", 0.0, 3, 5, rows, tuple(ratios_of(rows))
    )


ROWS = (
    row("torch eager", 2.0, 90.0),
    row("torch compile", 1.5, 120.0),
    row("torch tuned", 1.0, 150.0),
    row("tensorflow", 0.5, 45.0),
    row("jax", 4.0, None),
    row("jax", 3.0, dtype="mixed_bfloat16"),
)


def test_median_and_spread_worked_by_hand():
    timing = timing_of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert timing.median == 3.0
    assert timing.spread == pytest.approx((4 - 2) / 2 / 3)
    assert timing.rounds == (4.0, 1.0, 2.0, 3.0, 100.0)


def test_ratios_are_to_the_best_of_each_figure():
    assert list(ratios_of(ROWS)) == [
        Ratio("tensorflow", "float32", step=2.0, step_as_installed=3.0, forward=2.0, memory=0.5),
        Ratio("jax", "float32", step=0.25, step_as_installed=0.375, forward=0.25, memory=None),
    ]


def test_the_table_shows_images_per_second():
    first, *_, last = table(record(*ROWS))
    assert (first["step"], first["forward"]) == ("16 ± 0.0 %", "64 ± 0.0 %")
    assert (first["compile"], first["memory"]) == ("5.0 s", "90 MB")
    assert last["both"] is None


def test_ratios_in_words():
    first, _ = ratios_in_words(record(*ROWS).ratios)
    assert first == (
        "tensorflow float32 / PyTorch's best: step 2.00 times as fast (3.00 beside PyTorch as "
        "installed), forward 2.00, 0.50 times the memory"
    )


def test_markdown_has_a_row_for_each_dtype():
    head, rule, first, *_ = markdown(record(*ROWS[:5]))
    assert head == (
        "| network, batch | dtype | PyTorch eager | PyTorch compile | "
        "PyTorch compile, allocator tuned | TensorFlow | JAX |"
    )
    assert rule.count("---") == 7
    assert first == (
        "| `wrn`, 32 | float32 | 16, 90 MB | 21.3, 120 MB | 32, 150 MB | "
        "64, 3.00 and 2.00 times, 45 MB | 8, 0.38 and 0.25 times |"
    )


def test_markdown_leaves_a_cell_empty_where_a_side_lacks_a_dtype():
    lines = list(markdown(record(*ROWS)))
    assert lines[3] == "| `wrn`, 32 | mixed_bfloat16 | - | - | - | - | 10.7, 100 MB |"


def test_changes_are_of_the_figures_that_both_have():
    after = record(row("tensorflow", 0.4, 90.0), row("new", 1.0))
    found = {change.figure: change for change in changes(record(*ROWS), after)}
    assert found["step"] == Change("tensorflow", "float32", "step", pytest.approx(0.8))
    assert found["memory"].ratio == 2.0
    assert found.keys() == {"forward", "step", "compile", "memory"}


def test_a_result_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "result.json"
    both = row("tensorflow", 0.5, both=timing_of([0.5, 0.75]))
    written = record(both, *ROWS)
    file.write_text(json.dumps(to_json(written) | {"changes": []}))
    assert read_result(file) == written
    check_comparable(file, read_result(file), SUBJECT, MACHINE, ["jax float32"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "holds no result"),
        ("[]", "is not a JSON object"),
        ('{"top1": 3}', 'its "subject" is missing'),
        (json.dumps(to_json(record(*ROWS)) | {"kind": "metrics"}), 'its "kind" is wrong'),
        (json.dumps(to_json(record(*ROWS)) | {"rows": [{"name": "a"}]}), 'its "rows.0.dtype"'),
    ],
)
def test_no_result(tmp_path, text, sentence):
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_result(file)


@pytest.mark.parametrize(
    ("subject", "machine", "sentence"),
    [
        (SUBJECT, replace(MACHINE, cores=4), "another machine, 2 cores of A CPU, A GPU"),
        (SUBJECT, replace(MACHINE, cpu="B"), "this one is 2 cores of B, A GPU"),
        (SUBJECT, replace(MACHINE, gpus=()), "this one is 2 cores of A CPU:"),
        (replace(SUBJECT, batch_size=64), MACHINE, "is of wrn at 32 images .* received .* 64"),
        (replace(SUBJECT, recipe="b"), MACHINE, "received b at 32"),
        (replace(SUBJECT, model={"name": "vgg16"}), MACHINE, "and another network"),
    ],
)
def test_results_that_cannot_be_compared(tmp_path, subject, machine, sentence):
    with pytest.raises(UserError, match=sentence):
        check_comparable(tmp_path, record(*ROWS), subject, machine, ["jax float32"])


def test_results_of_other_sides_cannot_be_compared(tmp_path):
    with pytest.raises(UserError, match="has jax float32; received tensorflow float32"):
        before = record(row("jax", 1.0))
        check_comparable(tmp_path, before, SUBJECT, MACHINE, ["tensorflow float32"])


def test_what_else_may_have_changed_the_figures():
    before = replace(record(*ROWS), versions={"keras": "3.14", "jax": "0.10"})
    after = replace(
        before,
        overrides=("train.ema=0.9",),
        images="shapes",
        versions={"keras": "3.15", "jax": "0.10", "torch": "2.13"},
    )
    assert sorted(differences(before, after)) == [
        "images were random, and are shapes",
        "keras was 3.14, and is 3.15",
        "overrides were none, and are train.ema=0.9",
        "torch was missing, and is 2.13",
    ]
    assert list(differences(before, before)) == []
    moved = replace(before, rows=(replace(ROWS[0], devices=("gpu:0", "gpu:1")), *ROWS[1:]))
    was = ", ".join(ROWS[0].devices)
    assert list(differences(before, moved)) == [
        f"{ROWS[0].label} ran on {was}, and runs on gpu:0, gpu:1"
    ]
