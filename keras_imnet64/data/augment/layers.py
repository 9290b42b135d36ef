"""Preprocessing layers of Keras and KerasCV as steps of an augmentation, named by a recipe.

They draw their own random numbers, so a run with one is not repeatable to the bit, nor resumable so
(`LayerStep.is_exact`). Operations whose draws are ours are in `augment`.
"""

import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from keras_imnet64.core.errors import UserError, nearest, reason

MIXING = ("CutMix", "FourierMix", "MixUp", "Mosaic")  # change labels too
PUBLIC_NAME = re.compile(r"(keras|keras_cv)\.layers\.[A-Za-z]\w*")
BOLD = re.compile(r"\x1b\[1m(.+?)\x1b\[0m", re.DOTALL)


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
    mixes = False

    def draw(self, rng, num_samples, image_size):
        """Nothing: the layer draws when it is called."""
        return {}

    def apply(self, images, draws, mean_image):
        """uint8 [B, H, W, 3] -> the same, rounded and clipped to 0..255."""
        return self._apply(images)

    @cached_property
    def _apply(self):
        """The layer within a TensorFlow graph, where it works under any backend.

        Its state lies on the CPU, where tf.data runs, and not on the GPU of the training.
        """
        import tensorflow as tf

        with tf.device("CPU:0"):
            layer = make_layer(self.op, self.options, self.seed)

        @tf.function  # traced for each batch size: not every layer works without knowing it
        def apply(images):
            with tf.device("CPU:0"):
                augmented = tf.cast(layer(tf.cast(images, "float32"), training=True), "float32")
                return tf.cast(tf.round(tf.clip_by_value(augmented, 0, 255)), "uint8")

        return apply

    def check(self):
        """Make the layer, outside of tf.data's graph, and try it within one on two images.

        Raises:
            UserError: it fails on them, or returns something else than images of their size.
        """
        import tensorflow as tf

        shape = (2, self.image_size, self.image_size, 3)
        apply = self._apply
        try:
            with tf.device("CPU:0"):  # a layer may make its state when it is first called
                pictures = tf.data.Dataset.from_tensors(tf.zeros(shape, "uint8"))
                returned = tuple(pictures.map(apply).get_single_element().shape)
        except Exception as error:  # layers raise what they like
            raise _refused(self.op, error) from error
        if returned != shape:
            raise UserError(
                f"augment.layer {self.op} must return images of the size that it is given, "
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
        known = preprocessing_layers(library)
    except ImportError as error:
        raise UserError(
            f"augment.layer {name} needs {library}, which cannot be imported ({reason(error)}); "
            f"`pip install {library.replace('_', '-')}` provides it"
        ) from error
    if class_name in MIXING:
        raise UserError(f"augment.layer {name} mixes labels too, and is given none here")
    if class_name not in known:
        raise UserError(
            f"augment.layer {name} is not an image preprocessing layer; "
            f"{nearest(class_name, known)}"
        )
    _check_options(name, options)
    takes = inspect.signature(known[class_name].__init__).parameters
    defaults = {"value_range": (0, 255), "seed": 1 + seed}  # KerasCV takes a seed of 0 for none
    defaults = {key: value for key, value in defaults.items() if key in takes}
    try:
        return known[class_name](**defaults | {k: _as_tuple(v) for k, v in options.items()})
    except Exception as error:  # layers raise what they like
        raise _refused(name, error) from error


def _as_tuple(value):
    """TOML has lists only, and some layers insist on tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _check_options(name, options):
    """Refuse tables: Keras makes objects of any of its classes of them, of code in a Lambda too."""
    for key, value in options.items():
        values = [value]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                raise UserError(
                    f"augment.layer {name}: {key} is a table: layers here take numbers, texts, "
                    "booleans and lists of these"
                )
            values += value if isinstance(value, list | tuple) else []


def preprocessing_layers(library):
    """{class name: class} of the public layers of keras or keras_cv that change images."""
    layers = import_module(f"{library}.layers")
    if library == "keras_cv":
        kinds = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    else:  # the base class has no public name: it is found among those of one of its layers
        bases = {cls.__name__: cls for cls in layers.RandomBrightness.__mro__}
        kinds = (bases["BaseImagePreprocessingLayer"],)
    public = inspect.getmembers(layers, inspect.isclass)
    return {name: cls for name, cls in public if issubclass(cls, kinds) and cls not in kinds}


def _refused(name, error):
    while str(error).startswith("in user code:") and error.__context__:
        error = error.__context__  # TensorFlow puts its own file names before what the layer says
    said = BOLD.search(str(error))  # and Keras puts the arguments after it
    said = reason(said[1] if said else error)
    return UserError(f"augment.layer {name} does not work with these options: {said}")
