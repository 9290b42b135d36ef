"""The table of formats: how an artefact is called, written by one process and run by another."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from keras_imnet64.models.ship import ship
from keras_imnet64.runs import classes_text


@dataclass(frozen=True)
class Format:
    """A row of the table: how an artefact is called, written and run.

    Attributes:
        default_name: in a run folder; beside another file its stem comes first. --out ends alike.
        write: takes (model, info, path).
        load: path -> function from uint8 pixels [B, H, W, 3] to logits [B, K].
        without: packages that cannot be imported where it is run.
    """

    default_name: str
    write: Callable
    load: Callable
    without: tuple


def serving(model):
    """pixels [B, H, W, 3] of any type -> float32 logits [B, K], for TensorFlow and NumPy alike."""
    from keras import ops, tree

    dtype = model.inputs[0].dtype

    def serve(pixels):
        logits = model(ops.cast(pixels, dtype), training=False)
        return ops.cast(tree.flatten(logits)[0], "float32")

    return serve


def also_of_none(serve):
    """The same function, which returns logits [0, K] of 0 images: convolutions fail on none."""
    import tensorflow as tf

    def serve_any(pixels):
        shape = tf.shape(pixels)
        missing = tf.concat([1 - tf.minimum(shape[:1], 1), shape[1:]], 0)  # [1 or 0, H, W, 3]
        pictures = tf.concat([pixels, tf.zeros(missing, pixels.dtype)], 0)
        pictures.set_shape(pixels.shape)
        return serve(pictures)[: shape[0]]

    return serve_any


def write_saved_model(model, info, path):
    """TensorFlow's SavedModel with the endpoint `serve`, names in its folder for extra assets."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec((None, *model.inputs[0].shape[1:]), "uint8", name="pixels")
    archive.add_endpoint("serve", also_of_none(serving(model)), [pixels])
    archive.write_out(path, verbose=False)
    extra = path / "assets.extra"
    if info:
        extra.mkdir()
        (extra / "imnet64.json").write_text(json.dumps(info, indent=2), "utf-8")
    if info.get("class_names"):
        (extra / "classes.txt").write_text(classes_text(info["class_names"]), "utf-8")


def load_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda images: loaded.serve(images)  # keeps `loaded`, which owns the variables


def write_keras(model, info, path):
    ship(model, path, info)


def load_keras(path):
    import keras

    return serving(keras.saving.load_model(path, safe_mode=True))


FORMATS = {
    "saved_model": Format("saved_model", write_saved_model, load_saved_model, ("keras",)),
    "keras": Format("exported.keras", write_keras, load_keras, ("keras_imnet64",)),
}
