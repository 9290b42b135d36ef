"""The transcript of a newcomer's first steps, in docs/first-steps.md: read, run, written anew.

    python tests/first_steps.py

runs its commands in a new folder, as a newcomer would, and puts what they print into the page's
first ```console block. What stands around that block is written by hand.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "first-steps.md"
DOCTOR = "python cli.py doctor"
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d.,]*(?:e[-+]?\d+)?(?!\w)")
PATH = re.compile(r"(?<!\S)/\S+")
# What a terminal shows while something takes long, and takes away again.
DOTS = re.compile(r"^(epoch \d+/\d+) \.* ")  # before the result of an epoch
FIRST_STEP = re.compile(r"  first step [\d.,]+ s$")  # behind it, where it took long
PASSING = re.compile(r" \.\.\.|^epoch \d+/\d+ \d+/\d+ |^epoch \d+/\d+ ?\.*$")


def session(block):
    """[(command, what the block shows that it prints)], in their order."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts[1:]]


def transcript(text):
    """{command: what the page shows that it prints}, in their order."""
    return dict(session(BLOCK.search(text)[0]))


def commands(text):
    """The lines after `$ ` of the transcript."""
    return list(transcript(text))


def lasting_lines(printed):
    """What a terminal still shows of a command in the end."""
    lines = [FIRST_STEP.sub("", DOTS.sub(r"\1  ", line.rstrip())) for line in printed.splitlines()]
    return [line for line in lines if not PASSING.search(line)]


def keys(printed):
    """What a command says, without the values: the names in the lines, each once, in their order.

    A line is a key and its value, or a key and pairs of a name and a value, with two spaces or more
    between them. Numbers and paths differ from machine to machine, and so do the lines about what
    takes long.
    """
    names = {}
    for line in lasting_lines(printed):
        if not line:
            continue
        first, *others = re.split(r"\s{2,}", PATH.sub("PATH", NUMBER.sub("N", line)).strip())
        names[first] = None
        if len(others) > 1:
            names |= {f"{first}: {other.split(' ')[0]}": None for other in others}
    return list(names)


def shows(shown, printed):
    """Whether what is shown has the keys that are printed; "..." stands for lines left out."""
    parts = re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
    pattern = r"(?:.*\n)*".join("".join(f"{re.escape(k)}\n" for k in keys(p)) for p in parts)
    return re.fullmatch(pattern, "".join(f"{key}\n" for key in keys(printed))) is not None


def newcomer(home, data_dir=None):
    """The environment of somebody with an empty home, in whose shell `python` is this one."""
    ours = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    strangers = ("KERAS_", "TF_", "TFDS_", "JAX_", "XLA_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(strangers)}
    return inherited | ours | ({"TFDS_DATA_DIR": str(data_dir)} if data_dir else {})


def run(command, folder, environment):
    """What a command prints, both streams in their order; CalledProcessError if it fails."""
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout


def settle(folder):
    """What a clone has and the commands need: `python cli.py`, and a place for runs."""
    shutil.copy(ROOT / "cli.py", folder)
    (folder / "saved_models").mkdir()


def write_anew():
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "keras_imnet64"
        folder.mkdir()
        settle(folder)
        environment = newcomer(scratch)
        parts = []
        for command in commands(text):
            print(f"$ {command}", flush=True)
            printed = run(command, folder, environment).replace(scratch, "/home/you")
            print(printed, flush=True)
            parts.append("\n".join([f"$ {command}", *lasting_lines(printed), ""]))
    shown = "\n".join(parts)
    PAGE.write_text(BLOCK.sub(lambda _: shown, text, count=1))


if __name__ == "__main__":
    write_anew()
