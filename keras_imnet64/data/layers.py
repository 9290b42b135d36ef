"""Preprocessing layers of Keras and KerasCV as steps of an augmentation, named by a recipe.

They draw their own random numbers, so a run with one is not repeatable to the bit, nor resumable so
(`LayerStep.is_exact`). Operations whose draws are ours are in `augment`.
"""

import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from keras_imnet64.errors import UserError, nearest

MIXING = ("CutMix", "FourierMix", "MixUp", "Mosaic")  # change labels too
PUBLIC_NAME = re.compile(r"(keras|keras_cv)\.layers\.[A-Za-z]\w*")


@dataclass(frozen=True)
class LayerStep:
    """One layer of a recipe's augmentation; like `augment.Step`, but for its own randomness.

    Attributes:
        op: the layer's public name, such as "keras_cv.layers.RandomCutout".
        options: what its constructor takes. `value_range` and `seed` are filled in.
        image_size: pixels per side.
        seed: of the layer's own random numbers.
    """

    op: str
    options: dict
    image_size: int
    seed: int = 0
    is_exact = False

    def draw(self, rng, num_samples):
        """Nothing: the layer draws when it is called."""
        return {}

    def apply(self, images, draws, mean_image):
        """uint8 [B, H, W, 3] -> the same, rounded and clipped to 0..255."""
        return self._apply(images)

    @cached_property
    def _apply(self):
        """The layer within a TensorFlow graph, where it works under any backend."""
        import tensorflow as tf

        layer = make_layer(self.op, self.options, self.seed)

        @tf.function(reduce_retracing=True)
        def apply(images):
            augmented = tf.cast(layer(tf.cast(images, "float32"), training=True), "float32")
            return tf.cast(tf.round(tf.clip_by_value(augmented, 0, 255)), "uint8")

        return apply

    def check(self):
        """Make the layer, outside of tf.data's graph, and try it on two pictures.

        Raises:
            UserError: it fails on them, or returns something else than pictures of their size.
        """
        import tensorflow as tf

        shape = (2, self.image_size, self.image_size, 3)
        try:
            returned = tuple(self._apply(tf.zeros(shape, "uint8")).shape)
        except UserError:
            raise
        except Exception as error:  # layers raise what they like
            raise _refused(self.op, error) from error
        if returned != shape:
            raise UserError(
                f"augment.layer {self.op} must return pictures of the size that it is given, "
                f"{list(shape[1:])}; it returned {list(returned[1:])}"
            )


def check_layer_name(name):
    """Refuse what cannot name a layer; whether there is one is seen when it is made."""
    if not PUBLIC_NAME.fullmatch(name):
        raise UserError(
            "augment.layer must be the public name of a Keras or KerasCV layer, such as "
            f'"keras_cv.layers.RandomCutout"; received "{name}"'
        )


def make_layer(name, options, seed):
    """The layer of a public name; only image preprocessing layers, which run no code of others.

    Raises:
        UserError: there is no such layer, it is of another kind, or it refuses the options.
    """
    check_layer_name(name)
    library, _, class_name = name.split(".")
    try:
        known = _preprocessing_layers(library)
    except ImportError as error:
        raise UserError(
            f"augment.layer {name} needs {library}, which cannot be imported ({error}); "
            f"`pip install {library.replace('_', '-')}` provides it"
        ) from error
    if class_name in MIXING:
        raise UserError(f"augment.layer {name} mixes labels too, and is given none here")
    if class_name not in known:
        raise UserError(
            f"augment.layer {name} is not an image preprocessing layer; "
            f"{nearest(class_name, known)}"
        )
    takes = inspect.signature(known[class_name].__init__).parameters
    defaults = {"value_range": (0, 255), "seed": seed}
    defaults = {key: value for key, value in defaults.items() if key in takes}
    try:
        return known[class_name](**defaults | options)
    except Exception as error:  # layers raise what they like
        raise _refused(name, error) from error


def _preprocessing_layers(library):
    """{class name: class} of the library's layers that change images."""
    layers = import_module(f"{library}.layers")
    if library == "keras_cv":
        kinds = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    else:  # the base class has no public name of its own
        kinds = (layers.RandomBrightness.__mro__[1],)
    public = inspect.getmembers(layers, inspect.isclass)
    return {name: cls for name, cls in public if issubclass(cls, kinds) and cls not in kinds}


def _refused(name, error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"augment.layer {name} does not work with these options: {lines[0]}")
