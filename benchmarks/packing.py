"""Packing Tiny ImageNet: seconds, images per second, memory, and what follows for ImageNet64.

    python benchmarks/packing.py tiny-imagenet-200.zip DATA_DIR

First from its zip of 110,000 JPEGs; then the same images, written as archives in the layout of
ImageNet64 (not timed), through TFDS into a store, as `data prepare imagenet_resized/64x64 --source`
does, which is projected to the 1,331,167 images of ImageNet64. Both are commands in a process of
their own; their memory is what no file backs (Anonymous in /proc/PID/smaps_rollup, so Linux only),
since pages of a mapped file can be given back at any time.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import click

NUM_IMAGENET = 1_281_167 + 50_000


@click.command()
@click.argument("source", type=click.Path(exists=True))
@click.argument("data_dir", type=click.Path(path_type=Path))
def main(source, data_dir):
    where = ["--data-dir", str(data_dir)]
    measure("tiny_imagenet", ["--source", source, *where])
    archives = str(data_dir / "archives")
    script = str(Path(__file__).with_name("tiny_as_imagenet64.py"))
    counts = ["--train", "100000", "--validation", "10000"]
    subprocess.run([sys.executable, script, archives, *counts, *where], check=True)
    options = ["--source", archives, "--allow-unverified", *where]
    rate = measure("imagenet_resized/64x64", options)
    print(f"{NUM_IMAGENET:,} images at that rate: {NUM_IMAGENET / rate / 60:.0f} minutes")


def measure(dataset, options):
    """Run `data prepare`, print what it took, return images per second."""
    command = [sys.executable, "cli.py", "data", "prepare", dataset, *options, "--json"]
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.05)
        output = child.stdout.read()
    if child.returncode:
        raise SystemExit(child.returncode)
    seconds, images = time.perf_counter() - begin, sum(json.loads(output)["splits"].values())
    print(
        f"{dataset}: {images:,} images in {seconds:.1f} s from start to end, "
        f"{images / seconds:,.0f} per second, at most {peak / 1e6:,.0f} MB anonymous"
    )
    return images / seconds


def anonymous_bytes(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
