"""Compares the speed of decoding JPEGs in training with torchvision on Pillow in a DataLoader.

    pip install torch torchvision
    python benchmarks/jpeg_speed.py       # the goal is at least 1.5 times as fast

Both sides read the same 512 random files of 500 x 375 pixels and about 110 kB each, the averages of
ImageNet. They resize a random box of each image to 224 x 224 pixels (RandomResizedCrop, bilinear,
with antialiasing), mirror half of the images, and return uint8 batches of 128. The files lie in the
page cache. The two sides alternate as in `data_speed.py`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import data_speed
import numpy as np
from PIL import Image

NUM_FILES, SIZE = 512, 224
NUM_REPEATS = 20  # of the files in an epoch, whose begin and end are slow on both sides


def write_files(folder: Path) -> None:
    """Writes smooth colours with a texture that makes the files as large as photographs."""
    rng = np.random.default_rng(0)
    for number in range(NUM_FILES):
        colours = Image.fromarray(rng.integers(0, 256, (24, 32, 3), "uint8"))
        smooth = np.asarray(colours.resize((500, 375), Image.Resampling.BICUBIC), "float32")
        texture = rng.normal(0, 20, (188, 250, 3)).repeat(2, axis=0).repeat(2, axis=1)[:375]
        image = Image.fromarray(np.clip(smooth + texture, 0, 255).astype("uint8"))
        split, kind = ("train" if number % 8 else "val"), f"class{number % 4}"
        target = folder / "images" / split / kind
        target.mkdir(parents=True, exist_ok=True)
        image.save(target / f"{number:04}.jpg", quality=90)


def measure_ours(folder: Path) -> float:
    from keras_imnet64.data.augment import check_augment
    from keras_imnet64.data.datasets import prepare
    from keras_imnet64.data.images.views import View
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.stream import TrainingStream

    where = {"data_dir": folder / "data", "source": folder / "images"}
    selection = select(prepare("image_folder", **where)["train"])
    stream = TrainingStream(
        replace(selection, positions=np.tile(np.arange(len(selection)), NUM_REPEATS)),
        batch_size=data_speed.BATCH,
        view=View(SIZE, "bilinear", 256),
        mirror="random",
        augmentation=[check_augment("random_resized_crop", {}, SIZE)],
    )
    return data_speed.measure_rate(data_speed.endless_batches(stream))


def measure_torch(folder: Path, num_workers: int) -> float:
    import torch

    v2, _ = data_speed.import_torchvision()
    files = sorted((folder / "images" / "train").rglob("*.jpg")) * NUM_REPEATS
    transform = v2.Compose(
        [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                return transform(Image.open(file).convert("RGB")), 0

    return data_speed.measure_rate(data_speed.endless_loader(Images(), num_workers))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        side, folder, *options = sys.argv[2:]
        measure = {"ours": measure_ours, "torch": measure_torch}[side]
        print(measure(Path(folder), *map(int, options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder))
            sizes = [file.stat().st_size for file in Path(folder).rglob("*.jpg")]
            print(f"{len(sizes)} files of {np.mean(sizes) / 1000:.0f} kB on average")
            data_speed.main(folder, other="torch")
