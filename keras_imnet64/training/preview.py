"""Draws a contact sheet of what a recipe feeds its model, optionally operation by operation."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.data.stream import Stage, TrainingStream
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.data import load_data, make_stream

CELL = 128  # pixels per side to which images are enlarged, by a whole factor
MARGIN = 12  # pixels
LINE = 20  # pixels per line of text
NUM_COLUMNS = 8
MAX_IMAGES = 1024  # on a sheet of about 50 megapixels
BACKGROUND, INK = (250, 250, 250), (20, 20, 20)


@keras_defaults()
def preview(
    recipe: Recipe,
    out: StrPath,
    *,
    steps: bool = False,
    num_images: int | None = None,
    epoch: int = 1,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    pack_progress: PackProgress | None = None,
) -> JsonObject:
    """Draws the first images of an epoch as the model is fed them, with their class names.

    Args:
        out: the PNG file to write.
        steps: whether to draw a row for each image, with the result of each operation.
        num_images: at most MAX_IMAGES; default 32, with `steps` 8.
        epoch: counted from 1; order and random draws differ by epoch.
        data_dir, cache_dir, pack_progress: as for `fit`.

    Returns:
        The keys out, images (their number), stages (their names), image_size (in this epoch, see
        `train.sizes`), dataset, verified, width and height (in pixels).

    Raises:
        UserError: the recipe or its data does not work, or the file cannot be written.
        RunFailed: an image is gone, or has changed since it was indexed.
    """
    out = Path(out)
    check_output_file(out, ".png")
    if epoch < 1:
        raise UserError(f"--epoch must be 1 or more; received {epoch}")
    if num_images is not None and not 1 <= num_images <= MAX_IMAGES:
        raise UserError(f"--images must be 1 to {MAX_IMAGES}; received {num_images}")
    data = load_data(recipe, data_dir, cache_dir, pack_progress)
    stream = make_stream(recipe, data)
    count = num_images or (8 if steps else 32)
    size = recipe.size_of_epoch(epoch - 1)
    if steps:  # those of the size in augmentation, and their result at each smaller size
        stages, labels = _first_images(stream, epoch - 1, count, stream.image_size)
        for smaller in recipe.smaller_sizes:
            if smaller < stream.image_size:
                stages.append(_first_images(stream, epoch - 1, count, smaller)[0][-1])
    else:
        stages, labels = _first_images(stream, epoch - 1, count, size)
    names = [data.train.class_names[label] for label in labels]
    store = data.train.store
    title = f"{recipe.name}: {store.dataset}, epoch {epoch}"
    if recipe.smaller_sizes:
        title += f" of {size} px"
    if not store.verified:
        title += ", NOT VERIFIED data"
    draw = steps_sheet if steps else images_sheet
    sheet = draw(stages, names, title)
    content = io.BytesIO()
    sheet.save(content, "png")
    write_atomic(out, content.getvalue())
    return {
        "out": str(out),
        "images": len(names),
        "stages": [name for name, _ in stages],
        "image_size": size,
        "dataset": store.dataset,
        "verified": bool(store.verified),
        "width": sheet.width,
        "height": sheet.height,
    }


def _first_images(
    stream: TrainingStream, epoch: int, count: int, image_size: int
) -> tuple[list[Stage], np.ndarray]:
    """Returns stages and labels of an epoch's first images, which may span several batches."""
    count = min(count, stream.steps_per_epoch * stream.batch_size)
    num_steps = -(-count // stream.batch_size)
    batches = [stream.stages(epoch, step, image_size) for step in range(num_steps)]
    labels = np.concatenate([labels for _, labels in batches])[:count]
    stages = [
        Stage(same[0].name, np.concatenate([stage.images for stage in same])[:count])
        for same in zip(*(stages for stages, _ in batches), strict=True)
    ]
    return stages, labels


def images_sheet(stages: Sequence[Stage], names: Sequence[str], title: str) -> Image.Image:
    """Draws the images that the model is fed, each above its class name."""
    images = stages[-1].images
    columns = min(NUM_COLUMNS, len(images))
    sheet = _Sheet(columns, -(-len(images) // columns), images.shape[1], title)
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        row, column = divmod(index, columns)
        sheet.paste(image, row, column)
        sheet.write(name, row, column, below=True)
    return sheet.image


def steps_sheet(stages: Sequence[Stage], names: Sequence[str], title: str) -> Image.Image:
    """Draws a row for each image and a column for each operation, named above the first row."""
    images = stages[0].images
    sheet = _Sheet(len(stages), len(images), images.shape[1], title, head_lines=1)
    for column, stage in enumerate(stages):
        sheet.write(stage.name.rpartition(".")[2], 0, column, below=False)
        for row, image in enumerate(stage.images):
            sheet.paste(image, row, column)
    for row, name in enumerate(names):
        sheet.write(name, row, 0, below=True)
    return sheet.image


def font_file() -> str:
    """Returns a font with the letters of most European languages, unlike Pillow's own."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


class _Sheet:
    """A page of cells for images, each with space for a line of text below it."""

    def __init__(
        self, columns: int, rows: int, image_size: int, title: str, *, head_lines: int = 0
    ) -> None:
        self.factor = max(1, CELL // image_size)
        self.side = image_size * self.factor
        self.width, self.height = self.side + MARGIN, self.side + LINE + MARGIN
        self.top = MARGIN + LINE + MARGIN + head_lines * LINE
        self.font = ImageFont.truetype(font_file(), 14)
        text_width = int(self.font.getlength(title)) + 2 * MARGIN
        size = (max(MARGIN + columns * self.width, text_width), self.top + rows * self.height)
        self.image = Image.new("RGB", size, BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)
        self.pen.text((MARGIN, MARGIN), printable(title), INK, self.font)

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Returns (left, top) of a cell."""
        return MARGIN + column * self.width, self.top + row * self.height

    def paste(self, pixels: np.ndarray, row: int, column: int) -> None:
        """Pastes uint8 [H, W, 3] into a cell, each pixel enlarged to a square.

        Where an image of another size than the sheet's does not divide the cell, pixels differ by
        one in width.
        """
        places = np.arange(self.side) * len(pixels) // self.side
        pixels = pixels[places][:, places]
        self.image.paste(Image.fromarray(pixels), self.corner(row, column))

    def write(self, text: str, row: int, column: int, *, below: bool) -> None:
        """Writes a line of text below a cell, or above it, no wider than the cell."""
        left, top = self.corner(row, column)
        y = top + self.side + 2 if below else top - LINE
        self.pen.text((left, y), self._shortened(text), INK, self.font)

    def _shortened(self, text: str) -> str:
        """Returns the text, or as much of it as fits and an ellipsis."""
        text = rest = printable(text)
        while self.font.getlength(text) > self.side and text:
            rest = rest[:-1]
            text = rest + "…"
        return text
