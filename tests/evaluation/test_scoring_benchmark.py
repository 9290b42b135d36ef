"""`benchmarks/scoring.py` on a small network: its line of figures, and mistakes in one sentence."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scoring.py"
SMALL = ("--set", "model.depth=8", "--image-size", "16", "--batch-size", "2", "--rounds", "2")


def scoring(*arguments):
    command = [sys.executable, str(SCRIPT), "wrn36_2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_side_gives_its_median_between_smallest_and_largest():
    done = scoring(*SMALL, "--side", "tensorflow")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = re.fullmatch(r"forward +tensorflow +([\d.]+) images/s \(([\d.]+) to ([\d.]+)\) *", line)
    assert found, line  # and no ratio, since PyTorch was not measured
    median, smallest, largest = map(float, found.groups())
    assert 0 < smallest <= median <= largest


def test_mistakes_are_one_sentence():
    for arguments, words in {
        ("--set", "model.depth=7", "--side", "jax"): "model.depth",
        ("--task", "predict", "--side", "jax"): "--data-dir",
    }.items():
        done = scoring(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
