"""Computes where input, reduction and batch size end the scaling of a run to many devices.

    python benchmarks/scaling.py --parameters 37552360 --rate 7213 --batch-size 8192

Prints a table from 1 to 1,024 devices, for one data-parallel step over a global batch. Computed,
and not measured, from what is measured on one device and from what a network promises:

    compute    images of a device / its rate; the rate of a large batch, which a small one misses
    reduction  ring: 2 (n - 1) / n times the bytes of the gradients over the bandwidth of the
               slowest link, and 2 (n - 1) times its latency; nothing of it hidden behind compute
    input      augmentation on the cores of a machine, over the images that its devices take
    order      the permutation of an epoch, which each process draws, measured here, per step
"""

import time

import click
import numpy as np

from keras_imnet64.data.order import epoch_order

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NUM_IMAGES = 1_281_167  # of ImageNet


@click.command()
@click.option("--parameters", type=int, required=True, help="Of the network.")
@click.option("--rate", type=float, required=True, help="Images per second of one device.")
@click.option("--batch-size", type=int, required=True, help="Of all devices together.")
@click.option("--per-machine", default=8, show_default=True, help="Devices of a machine.")
@click.option("--inside", default=300.0, show_default=True, help="GB/s between these.")
@click.option("--between", default=40.0, show_default=True, help="GB/s per device, machines.")
@click.option("--latency", default=10.0, show_default=True, help="Microseconds of a hop.")
@click.option("--cores", default=96, show_default=True, help="Of a machine.")
@click.option("--augments", default=40_000.0, show_default=True, help="Images/s of a core.")
def main(parameters, rate, batch_size, per_machine, inside, between, latency, cores, augments):
    drawn = seconds_to_draw()
    print(f"an epoch of {NUM_IMAGES:,} images is drawn in {drawn:.2f} s by each process")
    print("| devices | images each | compute | reduction | input | order | images/s | of ideal |")
    print("|---|---|---|---|---|---|---|---|")
    for count in COUNTS:
        if batch_size % count:
            print(f"| {count:,} | the batch of {batch_size:,} has no part for each |" + " |" * 6)
            continue
        each = batch_size // count
        compute = each / rate
        bandwidth = 1e9 * (inside if count <= per_machine else between)
        hops = 2 * (count - 1)
        reduction = hops / count * 4 * parameters / bandwidth + hops * latency * 1e-6
        feeding = each * min(count, per_machine) / (cores * augments)
        order = drawn * batch_size / NUM_IMAGES  # in a thread beside the step, as the input is
        step = max(compute + reduction, feeding, order)
        cells = [f"{1e3 * s:.1f} ms" for s in (compute, reduction, feeding, order)]
        speed = batch_size / step
        cells = [f"{count:,}", f"{each:,}", *cells, f"{speed:,.0f}", f"{speed / rate / count:.0%}"]
        print("| " + " | ".join(cells) + " |")


def seconds_to_draw():
    """Returns the seconds for the order of an epoch and its mirrors."""
    seconds = []
    for epoch in range(3):
        begun = time.monotonic()
        epoch_order(NUM_IMAGES, "random", 0, epoch)
        seconds.append(time.monotonic() - begun)
    return float(np.median(seconds))


if __name__ == "__main__":
    main()
