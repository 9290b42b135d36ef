"""A contact sheet of what a recipe feeds its model, by image or operation by operation."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.training.data import load_data, make_stream

CELL = 128  # pixels per side that images are enlarged to, by a whole factor
MARGIN = 12
LINE = 20  # pixels of a line of text
COLUMNS = 8
MOST_IMAGES = 1024  # a sheet of some 50 megapixels
BACKGROUND, INK = (250, 250, 250), (20, 20, 20)


@keras_defaults()
def preview(
    recipe,
    out,
    *,
    steps=False,
    num_images=None,
    epoch=1,
    data_dir=None,
    cache_dir=None,
    pack_progress=None,
):
    """Draw the first images of an epoch as the model is fed them, with their class names.

    Args:
        recipe: a `Recipe`.
        out: the PNG file to write.
        steps: a row for each image with what each operation makes of it, side by side.
        num_images: how many, at most MOST_IMAGES; default 32, with `steps` 8.
        epoch: from 1; each has an order and draws of its own.
        data_dir, cache_dir, pack_progress: as for `fit`.

    Returns:
        dict: out, images, stages (their names), dataset, verified, width and height in pixels.

    Raises:
        UserError: the recipe or its data does not work, or the file cannot be written.
    """
    out = Path(out)
    check_output_file(out, ".png")
    if epoch < 1:
        raise UserError(f"--epoch must be 1 or more; received {epoch}")
    if num_images is not None and not 1 <= num_images <= MOST_IMAGES:
        raise UserError(f"--pictures must be 1 to {MOST_IMAGES}; received {num_images}")
    data = load_data(recipe, data_dir, cache_dir, pack_progress)
    stream = make_stream(recipe, data)
    stages, labels = _first_images(stream, epoch - 1, num_images or (8 if steps else 32))
    names = [data.train.class_names[label] for label in labels]
    store = data.train.store
    title = f"{recipe.name}: {store.dataset}, epoch {epoch}"
    if not store.verified:
        title += ", NOT VERIFIED data"
    draw = steps_sheet if steps else images_sheet
    sheet = draw(stages, names, title)
    content = io.BytesIO()
    sheet.save(content, "png")
    write_atomic(out, content.getvalue())
    return {
        "out": str(out),
        "pictures": len(names),
        "stages": [name for name, _ in stages],
        "dataset": store.dataset,
        "verified": bool(store.verified),
        "width": sheet.width,
        "height": sheet.height,
    }


def _first_images(stream, epoch, count):
    """Stages and labels of an epoch's first images, which may span several batches."""
    count = min(count, stream.steps_per_epoch * stream.batch_size)
    stream.begin(epoch)
    parts = [stream.stages(epoch, step) for step in range(-(-count // stream.batch_size))]
    labels = np.concatenate([labels for _, labels in parts])[:count]
    stages = [
        (name, np.concatenate([stages[index][1] for stages, _ in parts])[:count])
        for index, (name, _) in enumerate(parts[0][0])
    ]
    return stages, labels


def images_sheet(stages, names, title):
    """What the model is fed, each image above its class name. PIL.Image."""
    _, images = stages[-1]
    columns = min(COLUMNS, len(images))
    sheet = _Sheet(columns, -(-len(images) // columns), images.shape[1], title)
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        row, column = divmod(index, columns)
        sheet.paste(image, row, column)
        sheet.write(name, row, column, below=True)
    return sheet.image


def steps_sheet(stages, names, title):
    """A row for each image, a column for each operation, named above the first row. PIL.Image."""
    images = stages[0][1]
    sheet = _Sheet(len(stages), len(images), images.shape[1], title, head_lines=1)
    for column, (stage, images) in enumerate(stages):
        sheet.write(stage.rpartition(".")[2], 0, column, below=False)
        for row, image in enumerate(images):
            sheet.paste(image, row, column)
    for row, name in enumerate(names):
        sheet.write(name, row, 0, below=True)
    return sheet.image


class _Sheet:
    """A page of cells, each with room for a line below it."""

    def __init__(self, columns, rows, image_size, title, *, head_lines=0):
        self.factor = max(1, CELL // image_size)
        self.side = image_size * self.factor
        self.width, self.height = self.side + MARGIN, self.side + LINE + MARGIN
        self.top = MARGIN + LINE + MARGIN + head_lines * LINE
        self.font = ImageFont.load_default(size=14)
        text_width = int(self.font.getlength(title)) + 2 * MARGIN
        size = (max(MARGIN + columns * self.width, text_width), self.top + rows * self.height)
        self.image = Image.new("RGB", size, BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)
        self.pen.text((MARGIN, MARGIN), printable(title), INK, self.font)

    def corner(self, row, column):
        return MARGIN + column * self.width, self.top + row * self.height

    def paste(self, pixels, row, column):
        """uint8 [H, W, 3], each pixel enlarged to a square."""
        pixels = pixels.repeat(self.factor, axis=0).repeat(self.factor, axis=1)
        self.image.paste(Image.fromarray(pixels), self.corner(row, column))

    def write(self, text, row, column, *, below):
        """A line as wide as the cell, under it or above it."""
        left, top = self.corner(row, column)
        self.pen.text(
            (left, top + self.side + 2 if below else top - LINE), self._fitted(text), INK, self.font
        )

    def _fitted(self, text):
        """The text, or as much of it as fits, with an ellipsis."""
        text = whole = printable(text)
        while self.font.getlength(text) > self.side and text:
            whole = whole[:-1]
            text = whole + "…"
        return text
