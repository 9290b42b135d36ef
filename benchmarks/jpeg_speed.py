"""Images per second of JPEGs decoded on the fly, beside a DataLoader with torchvision on Pillow.

    pip install torch torchvision
    python benchmarks/jpeg_speed.py       # at least 1.5 times as fast is asked for

Both read the same 512 drawn files of 500 x 375 pixels, about 110 kB each, which is what ImageNet's
have on average, take a random box of each to 224 x 224 pixels (RandomResizedCrop, bilinear, with
antialiasing), mirror half of them, and end in the uint8 batch of 128 that a trainer takes. The
files lie in the page cache. The two sides alternate as in `data_speed.py`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import data_speed
import numpy as np
from PIL import Image

NUM_FILES, SIZE = 512, 224
TIMES = 20  # that an epoch goes through the files, since its begin and end are slow on both sides


def write_files(folder):
    """Smooth colours under a texture, which makes the files as large as photographs."""
    rng = np.random.default_rng(0)
    for number in range(NUM_FILES):
        colours = Image.fromarray(rng.integers(0, 256, (24, 32, 3), "uint8"))
        smooth = np.asarray(colours.resize((500, 375), Image.Resampling.BICUBIC), "float32")
        texture = rng.normal(0, 20, (188, 250, 3)).repeat(2, axis=0).repeat(2, axis=1)[:375]
        image = Image.fromarray(np.clip(smooth + texture, 0, 255).astype("uint8"))
        split, kind = ("train" if number % 8 else "val"), f"class{number % 4}"
        target = folder / "pictures" / split / kind
        target.mkdir(parents=True, exist_ok=True)
        image.save(target / f"{number:04}.jpg", quality=90)


def ours(folder):
    from keras_imnet64.data.augment import check_augment
    from keras_imnet64.data.datasets import prepare
    from keras_imnet64.data.images.views import View
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.stream import TrainingStream

    where = {"data_dir": folder / "data", "source": folder / "pictures"}
    selection = select(prepare("image_folder", **where)["train"])
    stream = TrainingStream(
        replace(selection, positions=np.tile(np.arange(len(selection)), TIMES)),
        batch_size=data_speed.BATCH,
        view=View(SIZE, "bilinear", 256),
        mirror="random",
        augmentation=[check_augment("random_resized_crop", {}, SIZE)],
    )
    return data_speed.rate_of(data_speed.streamed(stream))


def torchs(folder, num_workers):
    import torch

    v2, _ = data_speed.transforms()
    files = sorted((folder / "pictures" / "train").rglob("*.jpg")) * TIMES
    transform = v2.Compose(
        [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                return transform(Image.open(file).convert("RGB")), 0

    return data_speed.rate_of(data_speed.loaded(Images(), num_workers))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        side, folder, *options = sys.argv[2:]
        print({"ours": ours, "torch": torchs}[side](Path(folder), *map(int, options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder))
            sizes = [file.stat().st_size for file in Path(folder).rglob("*.jpg")]
            print(f"{len(sizes)} files of {np.mean(sizes) / 1000:.0f} kB on average")
            data_speed.main(folder, other="torch")
