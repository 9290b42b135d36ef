"""Draws the picture of the front page: what the model is fed, and how training goes.

    python docs/picture.py

trains the recipe `demo` under TensorFlow and JAX, which takes some minutes, and writes
docs/images/demo.png. The images are those of `shapes`, which this package draws.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "images" / "demo.png"
MAX_BYTES = 150_000
WIDTH = 800  # pixels: twice that of a phone, where the labels are still to be read
NUM_COLOURS = 128  # of the palette, which halves the file


def command(*words: str, folder: Path) -> None:
    """Runs a command of ours in a folder."""
    subprocess.run([sys.executable, ROOT / "cli.py", *words], cwd=folder, check=True)


def scaled(path: Path) -> Image.Image:
    """Returns a picture at the width of the result."""
    image = Image.open(path).convert("RGB")
    size = (WIDTH, round(image.height * WIDTH / image.width))
    return image.resize(size, Image.Resampling.LANCZOS)


def draw() -> Image.Image:
    """Returns the picture: four images, and below them the curves of two runs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for backend in ("tensorflow", "jax"):
            command("fit", "--recipe", "demo", "--backend", backend, folder=folder)
        runs = [f"saved_models/demo-{backend}" for backend in ("tensorflow", "jax")]
        sheet = ["--recipe", "demo", "--images", "4", "--out", "sheet.png"]
        command("data", "preview", *sheet, folder=folder)
        command("curves", *runs, "--against", "epochs", "--out", "curves.png", folder=folder)
        images, curves = scaled(folder / "sheet.png"), scaled(folder / "curves.png")
    picture = Image.new("RGB", (WIDTH, images.height + curves.height))
    picture.paste(images, (0, 0))
    picture.paste(curves, (0, images.height))
    return picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    picture = draw()
    TARGET.parent.mkdir(exist_ok=True)
    picture.save(TARGET, optimize=True)
    size = TARGET.stat().st_size
    print(f"{TARGET.relative_to(ROOT)}: {picture.width} x {picture.height} pixels, {size:,} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"it is to have at most {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
