"""The table of formats: the name of an artefact, and how it is written and loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from keras_imnet64.core.types import JsonObject, Tensor
from keras_imnet64.models.ship import write_model_file
from keras_imnet64.runs import classes_text

if TYPE_CHECKING:
    import keras

Serve: TypeAlias = Callable[[Tensor | np.ndarray], Tensor]  # pixels [B, H, W, 3] -> logits [B, K]


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        default_name: in a run folder; beside a model file, the stem of that file is its prefix.
        write: takes the model, what its file states (see `model_info`), and the path to write.
        load: takes the path and returns a function from uint8 pixels to logits.
        without: packages that users may lack; the artefact is checked without them.
    """

    default_name: str
    write: Callable[[keras.Model, JsonObject, Path], None]
    load: Callable[[Path], Serve]
    without: tuple[str, ...]


def serving_function(model: keras.Model) -> Serve:
    """Returns a function from pixels of any dtype, in TensorFlow or NumPy, to float32 logits."""
    from keras import ops, tree

    dtype = model.inputs[0].dtype

    def serve(pixels: Tensor) -> Tensor:
        logits = model(ops.cast(pixels, dtype), training=False)
        return ops.cast(tree.flatten(logits)[0], "float32")

    return serve


def accept_empty_batches(serve: Serve) -> Serve:
    """Returns a function that maps 0 images to logits [0, K]; convolutions would fail on them."""
    import tensorflow as tf

    def serve_any(pixels: Tensor) -> Tensor:
        shape = tf.shape(pixels)
        missing = tf.concat([1 - tf.minimum(shape[:1], 1), shape[1:]], 0)  # [1 or 0, H, W, 3]
        images = tf.concat([pixels, tf.zeros(missing, pixels.dtype)], 0)
        images.set_shape(pixels.shape)
        return serve(images)[: shape[0]]

    return serve_any


def write_saved_model(model: keras.Model, info: JsonObject, path: Path) -> None:
    """Writes a TensorFlow SavedModel with the endpoint `serve`; class names are extra assets."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec((None, *model.inputs[0].shape[1:]), "uint8", name="pixels")
    archive.add_endpoint("serve", accept_empty_batches(serving_function(model)), [pixels])
    archive.write_out(path, verbose=False)
    extra = path / "assets.extra"
    if info:
        extra.mkdir()
        (extra / "imnet64.json").write_text(json.dumps(info, indent=2), "utf-8")
    if info.get("class_names"):
        (extra / "classes.txt").write_text(classes_text(info["class_names"]), "utf-8")


def load_saved_model(path: Path) -> Serve:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda images: loaded.serve(images)  # keeps `loaded` alive, which owns the variables


def write_keras(model: keras.Model, info: JsonObject, path: Path) -> None:
    write_model_file(model, path, info)


def load_keras(path: Path) -> Serve:
    import keras

    return serving_function(keras.saving.load_model(path, safe_mode=True))


FORMATS = {
    "saved_model": Format("saved_model", write_saved_model, load_saved_model, ("keras",)),
    "keras": Format("exported.keras", write_keras, load_keras, ("keras_imnet64",)),
}
