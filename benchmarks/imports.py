"""Counts what `fit` imports: modules and megabytes, and the packages with the most modules.

    python benchmarks/imports.py --recipe demo --data-dir DIR

A child process runs `fit` for one step of one epoch, and says at its end which modules are loaded
and how much memory no file backs. The milliseconds are those that `-X importtime` attributes to the
modules of a package themselves. Another checkout is measured with --checkout PATH.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
CHILD = """
import atexit, json, sys

def tell():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    anonymous = next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    print(json.dumps({"modules": sorted(sys.modules), "kilobytes": anonymous}), flush=True)

atexit.register(tell)
from keras_imnet64.cli import main
main()
"""
IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
WATCHED = (
    "keras_cv", "keras_hub", "matplotlib", "scipy", "numba", "llvmlite", "sklearn", "pandas",
    "pyarrow", "fsspec", "tensorflow_datasets", "jax", "torch", "PIL", "rich",
)  # fmt: skip


@click.command()
@click.option("--recipe", default="demo", show_default=True)
@click.option("--data-dir", required=True, type=click.Path(path_type=Path))
@click.option("--checkout", default=ROOT, type=click.Path(path_type=Path))
@click.option("--backend", default="tensorflow", show_default=True)
def main(recipe, data_dir, checkout, backend):
    with tempfile.TemporaryDirectory() as scratch:
        settings = ["train.epochs=1", "data.steps_per_epoch=1", 'schedule={name="constant"}']
        arguments = ["fit", "--recipe", recipe, "--out", f"{scratch}/run", "--backend", backend]
        arguments += ["--data-dir", str(data_dir.resolve())]
        arguments += [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-X", "importtime", "-c", CHILD, *arguments]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        child = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
    if child.returncode:
        raise SystemExit(child.stderr[-3000:])
    found = json.loads(child.stdout.splitlines()[-1])
    counts = collections.Counter(name.split(".")[0] for name in found["modules"])
    micros = collections.Counter()
    for line in child.stderr.splitlines():
        if match := IMPORTED.match(line):
            micros[match[2].split(".")[0]] += int(match[1])
    print(f"{len(found['modules']):,} modules, {found['kilobytes'] / 1000:,.0f} MB anonymous")
    for name, count in counts.most_common(12):
        print(f"{count:6,} {name} ({micros[name] / 1000:,.0f} ms)")
    watched = [f"{name} {counts[name]:,}" for name in WATCHED if counts[name]]
    print(f"of the packages that are used here and there: {', '.join(watched) or 'none'}")


if __name__ == "__main__":
    main()
