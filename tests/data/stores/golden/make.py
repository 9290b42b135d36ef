"""Writes the stores beside this file, which later code must open: run it with the code of then.

    git worktree add OLD COMMIT && PYTHONPATH=OLD python tests/data/stores/golden/make.py KIND

The KINDS say with which commit each store was made. `images.npz` holds what `raw` was made of, and
`images/` the files that the encoded stores index; their `meta.json` names that folder "images",
because the real root is an absolute path.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
KINDS = {"raw": "cf31b5e", "encoded_1": "e5a4294", "encoded_2": "cf31b5e"}
LABELS = [0, 1, 1, 0, 1]
FACTS = {
    "dataset": "image_folder/golden",
    "split": "train",
    "wnids": ["n01", "caf\u00e9"],
    "class_names": ["ant", "bee"],
    "source": "drawn by make.py",
    "verified": True,
}


def write_raw(path):
    from keras_imnet64.data.packing import write_store

    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), 4, 4, 3), "uint8")
    np.savez_compressed(FOLDER / "images.npz", images=images, labels=np.array(LABELS, "int32"))
    write_store(path, [(images, LABELS)], count=len(LABELS), image_size=4, **FACTS)


def write_encoded(path):
    from keras_imnet64.data.indexing import Listed, write_index

    names = sorted(file.relative_to(FOLDER / "images") for file in FOLDER.glob("images/*/*"))
    listed = [Listed(name.as_posix(), label) for name, label in zip(names, LABELS, strict=True)]
    write_index(path, listed, root=FOLDER / "images", **FACTS)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"root": "images"}, indent=2) + "\n")


def draw_images():
    """Five small files: a JPEG, one turned by EXIF, one in CMYK, a PNG and one with a palette."""
    coarse = np.random.default_rng(1).integers(0, 256, (3, 3, 3), "uint8")
    image = Image.fromarray(coarse).resize((11, 7), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    for folder in ("a", "b"):
        (FOLDER / "images" / folder).mkdir(parents=True)
    image.save(FOLDER / "images/a/1.jpg")
    image.save(FOLDER / "images/a/2.jpg", exif=turned)
    image.convert("CMYK").save(FOLDER / "images/b/3.jpg")
    image.save(FOLDER / "images/b/4.png")
    image.quantize(8).save(FOLDER / "images/b/5.png")


if __name__ == "__main__":
    kind = sys.argv[1]
    if not (FOLDER / "images").is_dir():
        draw_images()
    shutil.rmtree(FOLDER / kind, ignore_errors=True)
    (write_raw if kind == "raw" else write_encoded)(FOLDER / kind)
