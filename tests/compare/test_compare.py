"""A comparison as a whole: what it starts, keeps and tells. Sides are made up, but in one test."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic import LOSSES, step_record, trajectory

from keras_imnet64 import compare as package
from keras_imnet64.compare import folder
from keras_imnet64.compare.records import Yardstick, write_step
from keras_imnet64.compare.sides import Side, parse_sides
from keras_imnet64.compare.text import pair_lines, show_result
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_json
from keras_imnet64.core.processes import ChildResult
from keras_imnet64.core.validation import to_json
from keras_imnet64.report import report

CHAOS = tuple(tuple(np.add(LOSSES, k * np.array([0, 0, 1e-3, 2e-3, 1e-2]))) for k in (1, -1))


class FakeSides:
    """In place of the processes of sides: writes what they are asked for, and notes it."""

    def __init__(self):
        self.asked = []
        self.losses = {"tensorflow": LOSSES, "jax": LOSSES}
        self.outcomes = {}  # of a backend whose side fails
        self.untrained = {}  # why a backend does not train
        self.make_step = step_record
        self.disturbed_losses = (LOSSES,)

    def __call__(self, module, *, request, environment):
        backend = environment["KERAS_BACKEND"]
        files = [request["trajectory"], request["yardstick"]]
        for task in request["steps"]:
            files += [task["record"], *(near["record"] for near in task["near"])]
        disturbed = request["disturbed"]
        files += [disturbed["record"]] if disturbed else []
        missing = [Path(file) for file in files if file and not Path(file).exists()]
        self.asked.append((backend, [file.name for file in missing]))
        if backend in self.outcomes:
            return self.outcomes[backend]
        for file in missing:
            if file.name == "trajectory.json":
                untrained = self.untrained.get(backend)
                facts = trajectory(() if untrained else self.losses[backend], untrained=untrained)
                write_json(file, to_json(facts))
            elif file.name == "yardstick.json":
                write_json(file, to_json(Yardstick(CHAOS)))
            elif file.name.startswith("disturbed"):
                found = Yardstick(self.disturbed_losses, disturbed["disturbance"])
                write_json(file, to_json(found))
            else:
                record = self.make_step(int(file.name.split(".")[0].split("-")[1]) - 1)
                write_step(file, forward_only(record) if self.untrained.get(backend) else record)
        return ChildResult('a library\'s chatter\n{"error": null}\n', None)


def forward_only(record):
    facts = replace(record.facts, loss=None, rate=None, magnitudes={})
    return replace(record, facts=facts, gradients={}, statistics={}, updates={})


@pytest.fixture
def sides(monkeypatch):
    fake = FakeSides()
    monkeypatch.setattr(folder, "run_child", fake)
    return fake


@pytest.fixture
def compared(small_recipe, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(small_recipe().to_toml())

    def compared(names=("tensorflow", "jax"), **options):
        options = {"num_steps": len(LOSSES), "out": tmp_path / "out"} | options
        return package.compare(path, names, **options)

    return compared


STEP_OF_FIRST = ["step-0001.npz", "step-0001-near-float32.npz"]
ALL_OF_FIRST = ["trajectory.json", "yardstick.json", *STEP_OF_FIRST]


def test_each_side_is_asked_once_one_after_the_other(sides, compared):
    result = compared()
    assert sides.asked == [
        ("tensorflow", ALL_OF_FIRST),
        ("jax", ["trajectory.json", "step-0001.npz"]),
    ]
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.answer) == ("tensorflow", "jax", "equal")
    assert result.yardstick == pytest.approx((0, 0, 2e-3, 4e-3, 2e-2))


def test_the_figures_of_a_side_are_those_of_its_steps(sides, compared):
    """0.5 s a step but for the first of 5, and 16 images a step."""
    side = compared().sides[0]
    assert (side.images_per_second, side.compile_seconds) == (32.0, 4.5)
    assert (side.seconds_to_first_step, side.peak_memory_mb) == (12.0, 321.0)
    assert side.losses == LOSSES


def test_a_step_at_which_the_sides_part_is_asked_of_both(sides, compared):
    sides.losses["jax"] = tuple(np.add(LOSSES, [0, 0, 0, 1e-3, 2e-3]))
    result = compared()
    assert sides.asked[2:] == [
        ("tensorflow", ["step-0004.npz", "step-0004-near-float32.npz"]),
        ("jax", ["step-0004.npz"]),
    ]
    assert result.pairs[0].answer == "equal within chaos"
    assert [step.step for step in result.pairs[0].steps] == [0, 3]


@pytest.mark.parametrize(
    ("largest", "answer"), [(0.06, "equal within chaos"), (0.04, "2.5 times the second one")]
)
def test_losses_that_no_step_explains_are_held_against_disturbed_runs(
    sides, compared, tmp_path, largest, answer
):
    """They part by 0.1, five times the yardstick; twice 0.06 allows it, twice 0.04 does not."""
    sides.losses["jax"] = tuple(np.add(LOSSES, [0, 0, 0, 1e-3, 0.1]))
    sides.disturbed_losses = (tuple(np.add(LOSSES, [0, 0, 0, 0, largest])),)
    result = compared()
    assert sides.asked[-1] == ("tensorflow", ["disturbed-2.json"])
    (pair,) = result.pairs
    assert answer in pair.answer
    assert pair.verdict.disturbance == pytest.approx(2**-23)  # the outputs do not differ
    assert pair.second_yardstick == pytest.approx((0, 0, 0, 0, largest))
    assert "second yardstick, for jax" in (tmp_path / "out" / "comparison.html").read_text()
    assert "second yardstick: 0.0" in "\n".join(pair_lines(pair))
    compared()
    assert sides.asked[-1] == ("tensorflow", ["disturbed-2.json"])  # asked once
    assert len(sides.asked) == 5


def test_a_step_that_differs_asks_for_no_disturbed_runs(sides, compared):
    """Its cause is named, however far disturbed runs would part."""
    sides.losses["jax"] = tuple(np.add(LOSSES, [0, 0, 0, 1e-3, 0.1]))
    made = []

    def make_step(step):
        made.append(step)
        record = step_record(step)
        other = tuple(array * 1.1 for array in record.activations)
        return replace(record, activations=other) if len(made) > 2 else record

    sides.make_step = make_step  # the third is that of the second side
    assert compared().pairs[0].answer.startswith("different from step 1 in layer conv: forward")
    assert not any("disturbed" in file for _, files in sides.asked for file in files)


def test_a_killed_comparison_goes_on_where_it_was(sides, compared, tmp_path):
    sides.outcomes["jax"] = ChildResult("", "it was ended by signal 9 (Killed)")
    with pytest.raises(RunFailed, match=r"side jax failed: .*Killed.*is kept in .*goes on"):
        compared()
    assert len(sides.asked) == 2
    sides.outcomes.clear()
    assert compared().pairs[0].answer == "equal"
    assert sides.asked[2:] == [("jax", ["trajectory.json", "step-0001.npz"])]
    assert compared().pairs[0].answer == "equal"
    assert len(sides.asked) == 3  # a finished one asks nobody


@pytest.mark.parametrize(("is_failure", "kind"), [(True, RunFailed), (False, UserError)])
def test_what_a_side_says_is_said(sides, compared, is_failure, kind):
    outcome = json.dumps({"error": "the loss is not finite", "is_run_failure": is_failure})
    sides.outcomes["tensorflow"] = ChildResult(outcome, None)
    with pytest.raises(kind, match=r"side tensorflow.*the loss is not finite") as caught:
        compared()
    assert type(caught.value) is kind


def test_a_backend_that_does_not_train_is_compared_forward_only(sides, compared, capsys, tmp_path):
    sides.untrained["jax"] = "no gradient of this"
    result = compared()
    (pair,) = result.pairs
    assert pair.answer == "equal (forward only, because its training fails: no gradient of this)"
    assert {each.stage for each in pair.steps[0].differences} == {"input", "forward"}
    assert (pair.distances, result.sides[1].losses) == ((), ())
    show_result(result, as_json=False)
    assert "no gradient of this" in capsys.readouterr().out
    assert "no gradient of this" in (tmp_path / "out" / "comparison.html").read_text()


def test_the_outputs_of_a_backend_that_does_not_train_may_differ(sides, compared):
    sides.untrained["jax"] = "no gradient of this"
    plain = sides.make_step

    def make_step(step):
        record = plain(step)
        return replace(record, activations=tuple(array * 2 for array in record.activations))

    compared_sides = iter([plain, plain, make_step])
    sides.make_step = lambda step: next(compared_sides)(step)
    assert compared().pairs[0].answer.startswith("different from step 1 in layer conv: forward")


def test_the_first_side_must_train(sides, compared):
    sides.untrained["tensorflow"] = "no gradient of this"
    with pytest.raises(RunFailed, match=r"no gradient of this\): name another side first"):
        compared()


def test_another_comparison_does_not_go_on_in_the_folder(sides, compared):
    compared()
    with pytest.raises(
        UserError, match="a comparison that differs in its steps: choose another --out"
    ):
        compared(num_steps=3)
    with pytest.raises(UserError, match="differs in its sides"):
        compared(["jax", "tensorflow"])


def test_a_mistake_does_not_keep_the_folder(sides, compared, tmp_path):
    """What the first side refuses leaves nothing that the command without the mistake minds."""
    outcome = json.dumps({"error": "--steps must be at most 18", "is_run_failure": False})
    sides.outcomes["tensorflow"] = ChildResult(outcome, None)
    with pytest.raises(UserError, match="at most 18"):
        compared(["tensorflow", "jax@2"], num_steps=100)
    (tmp_path / "out" / ".lock").touch()
    sides.outcomes.clear()
    assert compared().pairs[0].answer == "equal"
    assert not (tmp_path / "out" / "2-jax@2").exists()


def test_a_damaged_file_is_named(sides, compared, tmp_path):
    compared()
    for name in ("1-tensorflow/trajectory.json", "2-jax/step-0001.npz"):
        file = tmp_path / "out" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"{name} is damaged .*remove it"):
            compared()
        file.write_bytes(content)


def test_a_side_has_its_backend_dtype_and_devices():
    sides = parse_sides(["tensorflow", "tensorflow:mixed_bfloat16", "jax:float32@2"])
    assert sides == [
        Side("tensorflow"),
        Side("tensorflow", "mixed_bfloat16"),
        Side("jax", "float32", "2"),
    ]
    assert [side.label for side in sides][1:] == ["tensorflow:mixed_bfloat16", "jax:float32@2"]


def test_the_dtype_of_a_side_is_that_of_its_recipe(sides, compared):
    result = compared(["tensorflow", "tensorflow:mixed_bfloat16"])
    assert [side.dtype for side in result.sides] == ["float32", "mixed_bfloat16"]
    assert result.pairs[0].tolerance.forward > 1e-2


# ------------------------------------------------------------------------------------- what is told


class Links(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.refers_to, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.refers_to += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_all_of_it_and_loads_nothing(sides, compared, tmp_path):
    record = step_record()
    calls = [replace(call, name=f"<b>{call.name}</b>") for call in record.facts.calls]
    record = replace(record, facts=replace(record.facts, calls=tuple(calls)))
    sides.make_step = lambda step: record
    sides.losses["jax"] = tuple(np.add(LOSSES, 1.0))
    result = compared()
    text = (tmp_path / "out" / "comparison.html").read_text()
    page = Links(text)
    assert result.pairs[0].answer in page.text
    assert all(link.startswith(("#", "data:,")) for link in page.refers_to)  # within its pictures
    assert page.tags.count("svg") == 2 and page.tags.count("script") == 1  # the one that sorts
    assert not re.search(r"@import|url\((?!#)", text)
    assert "b" not in page.tags and "<b>conv</b>" in page.text
    assert package.read_result(tmp_path / "out") == result
    report([tmp_path / "out"], tmp_path / "report.html")
    page = Links((tmp_path / "report.html").read_text())
    assert result.pairs[0].answer in page.text and "b" not in page.tags
    (tmp_path / "out" / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"result.json is missing or damaged .*`compare` again"):
        report([tmp_path / "out"], tmp_path / "report.html")


def test_the_command_prints_a_table_and_the_verdict(sides, compared, run, tmp_path):
    command = ("compare", "--recipe", tmp_path / "small.toml", "--out", tmp_path / "out")
    status, text, _ = run(*command, "--steps", "5")
    assert status == 0
    assert "jax against tensorflow: equal" in text.splitlines()
    losses = [line.split() for line in text.splitlines() if re.match(r" *[1245] ", line)]
    assert losses == [
        [str(step), *[f"{LOSSES[step - 1]:.6f}"] * 2, "0.0e+00", apart]
        for step, apart in ((1, "0.0e+00"), (2, "0.0e+00"), (4, "4.0e-03"), (5, "2.0e-02"))
    ]
    assert re.search(
        r"^tensorflow +float32 +CPU:0 +32 +12\.0 s +4\.5 s +321 MB", text, re.MULTILINE
    )
    status, text, _ = run(*command, "--steps", "5", "--json")
    content = json.loads(text)
    assert content["pairs"][0]["verdict"]["answer"] == "equal"
    assert content["sides"][0]["losses"] == list(LOSSES)


# ---------------------------------------------------------------------------------- real processes


@pytest.mark.parametrize(
    "names",
    [("tensorflow@1", "jax@2"), pytest.param(("tensorflow@2", "jax@1"), marks=pytest.mark.slow)],
    ids=lambda names: names[0],
)
def test_two_backends_train_a_small_network_alike(names, small_recipe, data_dir, tmp_path):
    """Float32 on one device of the CPU and on two, from the first step to the last; with a real
    yardstick."""
    path = tmp_path / "small.toml"
    path.write_text(small_recipe().to_toml())
    options = {"num_steps": 4, "out": tmp_path / "out", "virtual_devices": 2}
    result = package.compare(path, names, data_dir=data_dir, **options)
    (pair,) = result.pairs
    assert pair.answer in ("equal", "equal within chaos"), pair.answer
    assert pair.distances[0] < 1e-5 and pair.steps[0].largest("backward").size < 1e-4
    assert pair.steps[0].largest("update").size < 1e-4
    assert [side.backend for side in result.sides] == ["tensorflow", "jax"]
    assert [len(side.devices) for side in result.sides] == [int(name[-1]) for name in names]
    assert result.sides[0].losses != result.sides[1].losses  # to the bit: they are two programs
