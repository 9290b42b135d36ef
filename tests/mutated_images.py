"""Damages thousands of image files: training must read those that `data prepare` accepts.

    python tests/mutated_images.py            # 4,000 files, about five minutes
    python tests/mutated_images.py 400 7      # 400 files, from seed 7

Random images, encoded in many ways, are cut, zeroed, changed in some bytes, or have parts swapped.
Their folder is prepared, which skips damaged files. Each accepted image is then decoded as training
decodes it, whole and in crops, and compared with Pillow's result for the file.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from keras_imnet64.data import datasets
from keras_imnet64.data.augment.crops import BOX
from keras_imnet64.data.images.reading import to_rgb
from keras_imnet64.data.stores.decoding import decode, regions_of
from keras_imnet64.data.stores.encoded import IN_CONVERTED, EncodedStore

NUM_CROPS = 6  # per image
ENCODINGS = {
    "baseline": ("JPEG", {}),
    "fine": ("JPEG", {"quality": 95, "subsampling": 0}),
    "half": ("JPEG", {"subsampling": 1, "optimize": True}),
    "restarts": ("JPEG", {"restart_marker_blocks": 5}),
    "progressive": ("JPEG", {"progressive": True}),
    "progressive fine": ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
    "progressive restarts": ("JPEG", {"progressive": True, "restart_marker_rows": 2}),
    "PNG": ("PNG", {}),
    "PNG stored": ("PNG", {"compress_level": 0}),
}
MODES = {"JPEG": ("RGB", "RGB", "L", "CMYK"), "PNG": ("RGB", "RGB", "L", "P", "RGBA", "I;16")}


def mutated_files(count: int, seed: int = 0) -> dict[str, bytes]:
    """Returns damaged files by name; the name says how the image was encoded and damaged."""
    rng = np.random.default_rng(seed)
    originals = [original for number in range(6) for original in _originals(rng, number)]
    files = {}
    for number in range(count):
        encoding, content = originals[number % len(originals)]
        damage = DAMAGES[number // len(originals) % len(DAMAGES)]
        suffix = "png" if encoding.startswith("PNG") else "jpg"
        name = f"{number:05} {encoding} {damage.__name__}.{suffix}"
        files[name] = damage(bytearray(content), rng)
    return files


def _originals(rng: np.random.Generator, number: int) -> Iterator[tuple[str, bytes]]:
    """Yields (encoding and mode, bytes) of one random image in each encoding."""
    height, width = int(rng.integers(40, 120)), int(rng.integers(40, 160))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), "uint8"))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), "float32")
    noisy = smooth + rng.normal(0, 12 * (number % 3), smooth.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype("uint8"))
    for encoding, (kind, options) in ENCODINGS.items():
        mode = MODES[kind][number % len(MODES[kind])]
        content = io.BytesIO()
        _in_mode(image, mode).save(content, kind, **options)
        yield f"{encoding} {mode.replace(';', '')}", content.getvalue()


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), "uint16") * 257)
    return image.convert(mode)


# ----------------------------------------------------------------------------------------- damages


def _piece(content: bytearray, rng: np.random.Generator, max_share: float = 0.3) -> tuple[int, int]:
    """Draws (begin, end) of a piece of a file, at least one byte long."""
    length = 1 + int(rng.integers(0, max(1, int(max_share * len(content)))))
    begin = int(rng.integers(0, len(content) - length + 1))
    return begin, begin + length


def cut(content: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(content[: len(content) - 1 - int(rng.integers(0, len(content) // 2))])


def cut_a_little(content: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(content[: -1 - int(rng.integers(0, 12))])


def cut_and_closed(content: bytearray, rng: np.random.Generator) -> bytes:
    return cut(content, rng) + bytes(content[-2:])


def zeroed(content: bytearray, rng: np.random.Generator) -> bytes:
    begin, end = _piece(content, rng)
    content[begin:end] = bytes(end - begin)
    return bytes(content)


def zero_tail(content: bytearray, rng: np.random.Generator) -> bytes:
    begin = len(content) - 1 - int(rng.integers(0, len(content) // 3))
    content[begin:] = bytes(len(content) - begin)
    return bytes(content)


def changed(content: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, len(content), int(rng.integers(1, 6))):
        content[at] ^= int(rng.integers(1, 256))
    return bytes(content)


def changed_in_header(content: bytearray, rng: np.random.Generator) -> bytes:
    content[int(rng.integers(0, min(700, len(content))))] ^= int(rng.integers(1, 256))
    return bytes(content)


def left_out(content: bytearray, rng: np.random.Generator) -> bytes:
    begin, end = _piece(content, rng, 0.1)
    del content[begin:end]
    return bytes(content)


def swapped(content: bytearray, rng: np.random.Generator) -> bytes:
    begin, end = _piece(content, rng, 0.2)
    other = int(rng.integers(0, len(content) - (end - begin) + 1))
    here, there = content[begin:end], content[other : other + end - begin]
    content[begin:end], content[other : other + end - begin] = there, here
    return bytes(content)


DAMAGES = (
    cut,
    cut_a_little,
    cut_and_closed,
    zeroed,
    zero_tail,
    changed,
    changed_in_header,
    left_out,
    swapped,
)


# --------------------------------------------------------------------------------------- the check


def check_files(
    files: dict[str, bytes], folder: Path, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Prepares files and reads the accepted ones as training does.

    Args:
        folder: an empty one, to work in.

    Returns:
        (counts, wrong): a Counter of "files", "refused" and "accepted", and among these of
        "converted", "undecodable" and "other pixels"; the names of the last two kinds.
    """
    root = folder / "images"
    for split in ("train", "val"):
        for wnid in ("all", "other"):  # a single class would be refused; "other" comes last
            (root / split / wnid).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(root / split / wnid / "whole.png")
    for name, content in files.items():
        (root / "train" / "all" / name).write_bytes(content)
    skipped = []
    store = datasets.prepare(
        "image_folder/mutated",
        source=root,
        data_dir=folder / "data",
        skip_corrupt=True,
        skipped=skipped,
    )["train"]
    refused = {name.rpartition("/")[2] for name, _ in skipped}
    kept = sorted({*files, "whole.png"} - refused)
    assert len(kept) + 1 == len(store)
    counts, wrong = Counter(files=len(files), refused=len(refused)), []
    rng = np.random.default_rng(seed)
    for position, name in enumerate(kept):
        counts["accepted"] += name in files
        counts["converted"] += int(store.records["file"][position] <= IN_CONVERTED)
        if fault := _fault(store, position, root / "train" / "all" / name, rng):
            counts[fault] += 1
            wrong.append(f"{name}: {fault}")
    return counts, wrong


def _fault(store: EncodedStore, position: int, file: Path, rng: np.random.Generator) -> str | None:
    """Returns what training gets wrong about an image, whole or in crops; None if nothing."""
    with Image.open(file) as image:
        expected = np.asarray(to_rgb(image, file))
    boxes = [(0, 0, *expected.shape[:2]), *(_box(expected, rng) for _ in range(NUM_CROPS))]
    for box in boxes:
        top, left, height, width = box
        try:
            found = _decode_as_training(store, position, box)
        except Exception:
            return "undecodable"
        if not np.array_equal(found, expected[top : top + height, left : left + width]):
            return "other pixels"
    return None


def _box(pixels: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    (top, height), (left, width) = (_interval(side, rng) for side in pixels.shape[:2])
    return top, left, height, width


def _interval(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draws (begin, length) of a part of a side."""
    length = int(rng.integers(1, side + 1))
    return int(rng.integers(0, side - length + 1)), length


def _decode_as_training(
    store: EncodedStore, position: int, box: tuple[int, int, int, int]
) -> np.ndarray:
    crops = {key: np.array([value]) for key, value in zip(BOX, box, strict=True)}
    (region,) = regions_of(store, np.array([position]), crops)
    (content,) = store.read([position])
    return decode(content, region, False, lambda pixels, _: pixels.copy(), (None,) * 3).numpy()


def main(count: int = 4000, seed: int = 0) -> bool:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        counts, wrong = check_files(mutated_files(count, seed), Path(folder), seed)
    print(", ".join(f"{number:,} {what}" for what, number in counts.items()))
    print(f"of the accepted ones, {len(wrong)} that training cannot read as Pillow does")
    print(*wrong[:50], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
