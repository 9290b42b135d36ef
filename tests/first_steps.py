"""The README's transcript of a newcomer's first steps: read, run as written, written anew.

    python tests/first_steps.py

runs its commands in a new folder, as a newcomer would, and puts what they print into the README.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)


def commands(text):
    """The lines after `$ ` of the transcript."""
    return [line[2:] for line in BLOCK.search(text)[0].splitlines() if line.startswith("$ ")]


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
    text = README.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "keras_imnet64"
        folder.mkdir()
        settle(folder)
        environment = newcomer(scratch)
        parts = []
        for command in commands(text):
            print(f"$ {command}", flush=True)
            printed = run(command, folder, environment).replace(scratch, "/home/you")
            parts.append(f"$ {command}\n{printed}")
            print(printed, flush=True)
    transcript = "\n".join("\n".join(s.rstrip() for s in p.splitlines()) + "\n" for p in parts)
    README.write_text(BLOCK.sub(lambda _: transcript, text, count=1))


if __name__ == "__main__":
    write_anew()
