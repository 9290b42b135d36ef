"""Which images a page shows, and how they become pictures."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from keras_imnet64.core.errors import printable
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.top_predictions import TopPredictions

MAX_SIDE = 96  # pixels; larger images are made smaller, so that a page stays below 5 MB
MAX_PER_CLASS = 3  # of one list, so that a single bad class does not fill it
MAX_FILTERS = 128
GAP = 1  # pixels between filters


def surest_mistakes(top: TopPredictions, count: int) -> np.ndarray:
    """Returns the numbers of the images that are wrong with the highest probability, [<= count]."""
    wrong = np.flatnonzero(~top.is_right)
    return _spread(wrong[np.argsort(-top.confidence[wrong], kind="stable")], top, count)


def surest(top: TopPredictions, count: int) -> np.ndarray:
    """Returns the numbers of the images that are right with the highest probability."""
    right = np.flatnonzero(top.is_right)
    return _spread(right[np.argsort(-top.confidence[right], kind="stable")], top, count)


def least_sure(top: TopPredictions, count: int) -> np.ndarray:
    """Returns the numbers of the images whose predicted class is least probable."""
    return _spread(np.argsort(top.confidence, kind="stable"), top, count)


def suspected_labels(top: TopPredictions, num_classes: int) -> np.ndarray:
    """Returns the numbers of images whose label may be wrong, the likeliest first.

    By confident learning (Northcutt et al., arXiv:1911.00068): another class is more probable than
    it is on average for the images with that label, and the label is less probable than on average
    for its own.
    """
    counts = np.maximum(np.bincount(top.labels, minlength=num_classes), 1)
    usual = np.bincount(top.labels, top.label_probability, num_classes) / counts
    is_suspect = (
        ~top.is_right
        & (top.confidence >= usual[top.first_class])
        & (top.label_probability < usual[top.labels])
    )
    suspects = np.flatnonzero(is_suspect)
    margin = top.label_probability[suspects] - top.confidence[suspects]
    return suspects[np.argsort(margin, kind="stable")]


def _spread(order: np.ndarray, top: TopPredictions, count: int) -> np.ndarray:
    """Returns the first images of an order, at most MAX_PER_CLASS with the same label."""
    seen: dict[int, int] = {}
    kept = []
    for number in order:
        label = int(top.labels[number])
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= MAX_PER_CLASS:
            kept.append(number)
        if len(kept) == count:
            break
    return np.array(kept, "int64")


def pixels_of(selection: Selection, numbers: np.ndarray, view: View | None) -> np.ndarray:
    """Returns images of a selection as a network sees them, uint8 [B, H, W, 3].

    Args:
        view: as for `stream.evaluation_batches`, of one crop.

    Raises:
        ImageFailed: an image is gone, or has changed since it was indexed.
    """
    chosen = replace(selection, positions=selection.look_up(numbers)[0])
    with as_run_failed(chosen.store):
        ((images, _, _),) = evaluation_batches(chosen, len(numbers), view).as_numpy_iterator()
    return np.asarray(images)


def png_of(pixels: np.ndarray) -> bytes:
    """Returns pixels, uint8 [H, W, 3 or 4], as the content of a PNG of at most MAX_SIDE rows."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((picture.width, MAX_SIDE), Image.Resampling.LANCZOS)
    return _encoded(picture)


def with_heat(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns an image, uint8 [H, W, 3], with a map, floats [h, w] in 0..1, laid over it."""
    from matplotlib import colormaps

    size = pixels.shape[1], pixels.shape[0]
    smooth = Image.fromarray(np.round(255 * heat).astype("uint8")).resize(
        size, Image.Resampling.BILINEAR
    )
    share = np.asarray(smooth, "float32")[..., None] / 255  # [H, W, 1]
    colours = 255 * colormaps["inferno"](np.asarray(smooth))[..., :3]
    alpha = 0.25 + 0.5 * share
    return np.round((1 - alpha) * pixels + alpha * colours).astype("uint8")


def filters_png(filters: np.ndarray) -> bytes:
    """Returns filters, floats [F, h, w, 3], side by side; each fills the range of a pixel."""
    filters = filters[:MAX_FILTERS]
    count, height, width, _ = filters.shape
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    span = np.maximum(filters.max(axis=(1, 2, 3), keepdims=True) - low, 1e-12)
    shown = np.round(255 * (filters - low) / span).astype("uint8")
    columns = int(np.ceil(np.sqrt(2 * count)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP), columns * (width + GAP), 4), "uint8")
    for number, each in enumerate(shown):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = each
        sheet[top : top + height, left : left + width, 3] = 255
    return _encoded(Image.fromarray(sheet))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return file.getvalue()


def caption(
    top: TopPredictions, number: int, names: Sequence[str], store: Store
) -> tuple[str, ...]:
    """Returns the lines below an image: its label, the likeliest other classes, and which it is."""
    label = top.labels[number]
    guesses = zip(top.classes[number], top.probabilities[number], strict=True)
    others = [f"{names[guess]} {_percent(share)}" for guess, share in guesses if guess != label]
    own = f"label: {names[label]} {_percent(top.label_probability[number])}"
    return own, *others[:2], _name_of(store, int(top.images[number]))


def _name_of(store: Store, position: int) -> str:
    """Returns "cats/tom.jpg", or "image 12" where images are no files."""
    if not isinstance(store, EncodedStore):
        return f"image {position:,}"
    return printable("/".join(Path(store.source_of(position)).parts[-2:]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
