"""Images per second of the training data, beside a PyTorch DataLoader on the same pictures.

    pip install torch torchvision
    python benchmarks/data_speed.py crop       # pad, crop, mirror: at least 4 times as fast
    python benchmarks/data_speed.py trivial    # and TrivialAugmentWide, bilinear: at least 3 times

Both read the same drawn pictures of 64 x 64 pixels from memory, in random order, and end in the
uint8 batch of 128 that a trainer takes. torchvision's v2 transforms work on uint8 tensors there,
image by image, as its DataLoader has them, with the worker count that is fastest on this machine;
ours is `TrainingStream`. The two alternate, each in a process of its own; the ratio of the medians
of their rates is the figure.
"""

import statistics
import subprocess
import sys
import time

import numpy as np

NUM_IMAGES, SIZE, BATCH = 20_000, 64, 128
SECONDS = 5  # of a measurement, after as long to settle
ROUNDS = 5
WORKERS = (0, 1, 2, 3, 4, 8)


def pictures():
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), dtype="uint8")


def rate_of(batches):
    """Images per second of an endless iterator over batches."""
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


def ours(case):
    from keras_imnet64.data.augment import check_augment
    from keras_imnet64.data.pipeline import TrainingStream
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.store import RawStore

    steps = {
        "none": [],
        "crop": [("pad_crop", {"padding": 4})],
        "trivial": [
            ("pad_crop", {"padding": 4}),
            ("trivial_augment", {"interpolation": "bilinear"}),
        ],
    }[case]
    meta = {"wnids": ["a"], "class_names": ["a"], "image_size": SIZE, "dataset": "drawn"}
    store = RawStore(None, meta, pictures(), np.zeros(NUM_IMAGES, "int32"))
    stream = TrainingStream(
        select(store),
        batch_size=BATCH,
        mirror="none" if case == "none" else "random",
        augmentation=[check_augment(op, options, SIZE) for op, options in steps],
    )

    def batches():
        dataset = stream.dataset()
        epoch = 0
        while True:
            stream.begin(epoch)
            yield from dataset
            epoch += 1

    return rate_of(batches())


def torchs(case, num_workers):
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # a build without its compiled operators; no transform here uses them
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.transforms import InterpolationMode, v2

    crop = [v2.RandomCrop(SIZE, padding=4), v2.RandomHorizontalFlip()]
    trivial = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    steps = {"none": [torch.nn.Identity()], "crop": crop, "trivial": [*crop, trivial]}[case]
    transform = v2.Compose(steps)
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2).contiguous()

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return NUM_IMAGES

        def __getitem__(self, index):
            return transform(images[index]), 0

    torch.set_num_threads(1)  # as in workers
    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )

    def batches():
        while True:
            yield from loader

    return rate_of(batches())


def in_a_process(*arguments):
    out = subprocess.run(
        [sys.executable, __file__, "--one", *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(out.split()[-1])


def main(case):
    by_workers = {count: in_a_process("torch", case, count) for count in WORKERS}
    workers = max(by_workers, key=by_workers.get)
    print(f"{case}: DataLoader is fastest with {workers} workers")
    rates = {"ours": [], "torch": []}
    for _ in range(ROUNDS):
        rates["ours"].append(in_a_process("ours", case))
        rates["torch"].append(in_a_process("torch", case, workers))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    for side, values in rates.items():
        print(f"{side:6} {medians[side]:9,.0f} images/s  {[round(value) for value in values]}")
    print(f"ratio  {medians['ours'] / medians['torch']:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        side, case, *rest = sys.argv[2:]
        print(ours(case) if side == "ours" else torchs(case, int(rest[0])))
    else:
        main(sys.argv[1])
