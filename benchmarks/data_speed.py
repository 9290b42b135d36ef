"""Compares the images per second of `TrainingStream` with a PyTorch DataLoader or numpy.take.

`jpeg_speed.py` measures JPEGs that are decoded on the fly.

    pip install torch torchvision
    python benchmarks/data_speed.py crop       # pad, crop, mirror: at least 4 times as fast
    python benchmarks/data_speed.py trivial    # crop and TrivialAugmentWide: at least 3 times
    python benchmarks/data_speed.py take       # no augmentation: at least half of numpy.take

Both sides read the same random images of 64 x 64 pixels from memory, in random order, and return
uint8 batches of 128. The DataLoader applies torchvision's v2 transforms to uint8 tensors, image by
image, with the number of workers that is fastest on this machine. The two sides alternate, each in
a new process; the result is the ratio of the medians of their rates.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

NUM_IMAGES, SIZE, BATCH = 20_000, 64, 128
SECONDS = 5  # of warm-up, and then of measurement
ROUNDS = 5
WORKER_COUNTS = (0, 1, 2, 3, 4, 8)

CROP = ("pad_crop", {"padding": 4})
TRIVIAL = ("trivial_augment", {"interpolation": "bilinear"})
CASES = {  # {case: (the other side, our mirror, our augmentation)}
    "crop": ("torch", "random", [CROP]),
    "trivial": ("torch", "random", [CROP, TRIVIAL]),
    "take": ("numpy", "none", []),
}


def random_images() -> np.ndarray:
    """Returns uint8 [NUM_IMAGES, SIZE, SIZE, 3]."""
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), dtype="uint8")


def measure_rate(batches: Iterable[Any]) -> float:
    """Returns images per second of an endless iterator over batches."""
    begin = time.perf_counter()
    for _ in batches:
        if time.perf_counter() - begin > SECONDS:
            break
    begin, count = time.perf_counter(), 0
    for _ in batches:
        count += BATCH
        if time.perf_counter() - begin > SECONDS:
            break
    return count / (time.perf_counter() - begin)


def measure_ours(case: str) -> float:
    from keras_imnet64.data.augment import check_augment
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.stores.raw import RawStore
    from keras_imnet64.data.stream import TrainingStream
    from keras_imnet64.records import RawStoreMeta

    _, mirror, steps = CASES[case]
    meta = RawStoreMeta(
        dataset="drawn",
        source="",
        verified=True,
        split="train",
        count=NUM_IMAGES,
        image_size=SIZE,
        wnids=["a"],
        class_names=["a"],
        class_counts=[NUM_IMAGES],
        digest="",
        file_sizes=dict.fromkeys(RawStoreMeta.FILES[1], 0),
    )
    store = RawStore(None, meta, random_images(), np.zeros(NUM_IMAGES, "int32"))
    stream = TrainingStream(
        select(store),
        batch_size=BATCH,
        mirror=mirror,
        augmentation=[check_augment(op, options, SIZE) for op, options in steps],
    )

    return measure_rate(endless_batches(stream))


def endless_batches(stream: Any) -> Iterator[Any]:
    """Yields batches of a TrainingStream, epoch after epoch."""
    dataset, epoch = stream.dataset(), 0
    while True:
        stream.begin(epoch)
        yield from dataset
        epoch += 1


def import_torchvision() -> tuple[Any, Any]:
    """Returns torchvision's v2 transforms and its InterpolationMode."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # a build without its compiled operators; no transform here uses them
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # the definitions live as long as this object
    from torchvision.transforms import InterpolationMode, v2

    return v2, InterpolationMode


def measure_torch(case: str, num_workers: int) -> float:
    import torch

    v2, InterpolationMode = import_torchvision()
    crop = [v2.RandomCrop(SIZE, padding=4), v2.RandomHorizontalFlip()]
    trivial = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    transform = v2.Compose({"crop": crop, "trivial": [*crop, trivial]}[case])
    images = torch.from_numpy(random_images()).permute(0, 3, 1, 2).contiguous()

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return NUM_IMAGES

        def __getitem__(self, index):
            return transform(images[index]), 0

    return measure_rate(endless_loader(Images(), num_workers))


def endless_loader(dataset: Any, num_workers: int) -> Iterator[Any]:
    """Yields batches of a DataLoader, epoch after epoch."""
    import torch

    torch.set_num_threads(1)  # as in the workers of a DataLoader
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    while True:
        yield from loader


def measure_numpy(case: str) -> float:
    images, rng = random_images(), np.random.default_rng(0)

    def batches() -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(NUM_IMAGES)
            for begin in range(0, NUM_IMAGES - BATCH + 1, BATCH):
                yield np.take(images, order[begin : begin + BATCH], axis=0)

    return measure_rate(batches())


SIDES = {"ours": measure_ours, "torch": measure_torch, "numpy": measure_numpy}


def measure_in_process(side: str, case: str, *options: int) -> float:
    """Returns images per second of one side, measured by this script in a new process."""
    out = subprocess.run(
        [sys.executable, sys.argv[0], "--one", side, case, *map(str, options)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(out.split()[-1])


def fastest_worker_count(case: str) -> int:
    rates = {count: measure_in_process("torch", case, count) for count in WORKER_COUNTS}
    workers = max(rates, key=rates.get)
    print(f"DataLoader is fastest with {workers} workers")
    return workers


def main(case: str, other: str | None = None) -> None:
    other = other or CASES[case][0]
    options = [fastest_worker_count(case)] if other == "torch" else []
    rates = {"ours": [], other: []}
    for _ in range(ROUNDS):
        rates["ours"].append(measure_in_process("ours", case))
        rates[other].append(measure_in_process(other, case, *options))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    for side, values in rates.items():
        print(f"{side:6} {medians[side]:9,.0f} images/s  {[round(value) for value in values]}")
    print(f"ratio  {medians['ours'] / medians[other]:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        side, case, *options = sys.argv[2:]
        print(SIDES[side](case, *map(int, options)))
    else:
        main(sys.argv[1])
