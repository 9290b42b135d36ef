"""Measures the speed and memory of packing Tiny ImageNet, and projects them to ImageNet64.

    python benchmarks/packing.py tiny-imagenet-200.zip DATA_DIR

The first command packs the zip of 110,000 JPEGs. The second packs the same images from archives in
the layout of ImageNet64 (whose writing is not timed), through TFDS, with `data prepare
imagenet_resized/64x64 --source`; its time is projected to the 1,331,167 images of ImageNet64. The
memory is what no file backs (Anonymous in /proc/PID/smaps_rollup, so Linux only), since the system
can reclaim pages of a mapped file at any time.
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
    """Runs `data prepare`, prints its time and memory, and returns images per second."""
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
    """Returns the memory of a process that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
