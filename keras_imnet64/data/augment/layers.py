"""Preprocessing layers of Keras and KerasCV as steps of an augmentation, named by a recipe.

The layers draw their own random numbers, so a run with such a layer can be neither repeated nor
resumed bit for bit (`LayerStep.is_exact`). Runs with the operations of `augment` can.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_imnet64.core.errors import UserError, nearest, reason
from keras_imnet64.core.types import JsonObject, Options, Tensor
from keras_imnet64.data.augment.draws import Draws, TensorDraws

if TYPE_CHECKING:
    import keras

MIXING = ("CutMix", "FourierMix", "MixUp", "Mosaic")  # layers that change labels too
OF_KERAS = {"RandomCutout": "RandomErasing"}  # layers of KerasCV that Keras has under other names
PUBLIC_NAME = re.compile(r"(keras|keras_cv)\.layers\.[A-Za-z]\w*")
BOLD = re.compile(r"\x1b\[1m(.+?)\x1b\[0m", re.DOTALL)  # the message in an error of Keras


@dataclass(frozen=True)
class LayerStep:
    """One layer of a recipe's augmentation; unlike in `augment.Step`, the layer draws its numbers.

    Attributes:
        op: the layer's public name, such as "keras_cv.layers.RandomCutout".
        options: arguments of its constructor; `value_range` and `seed` are filled in.
        image_size: pixels per side.
        seed: for the layer's own random numbers.
    """

    op: str
    options: JsonObject
    image_size: int
    seed: int = 0
    is_exact = False
    mixes = False

    def draw(
        self, rng: np.random.Generator, num_samples: int, image_size: int | np.ndarray
    ) -> Draws:
        """Draws nothing: the layer draws when it is called."""
        return {}

    def apply(self, images: Tensor, draws: TensorDraws, mean_image: np.ndarray) -> Tensor:
        """Returns the output of the layer for uint8 [B, H, W, 3], rounded and clipped to 0..255."""
        return self._apply(images)

    @cached_property
    def _apply(self) -> Callable[[Tensor], Tensor]:
        """Returns the layer within a TensorFlow graph, which works under any backend.

        The state of the layer lies on the CPU, where tf.data runs.
        """
        import tensorflow as tf

        with tf.device("CPU:0"):
            layer = make_layer(self.op, self.options, self.seed)

        @tf.function  # traced for each batch size, since some layers need it
        def apply(images: Tensor) -> Tensor:
            with tf.device("CPU:0"):
                augmented = tf.cast(layer(tf.cast(images, "float32"), training=True), "float32")
                return tf.cast(tf.round(tf.clip_by_value(augmented, 0, 255)), "uint8")

        return apply

    def check(self) -> None:
        """Makes the layer outside of a tf.data graph, and tries it inside one on two images.

        Raises:
            UserError: the layer fails, or does not return images of the same size.
        """
        import tensorflow as tf

        shape = (2, self.image_size, self.image_size, 3)
        apply = self._apply
        try:
            with tf.device("CPU:0"):  # a layer may create its state in its first call
                dataset = tf.data.Dataset.from_tensors(tf.zeros(shape, "uint8"))
                returned = tuple(dataset.map(apply).get_single_element().shape)
        except Exception as error:  # a layer may raise any exception
            raise _refusal(self.op, error) from error
        if returned != shape:
            raise UserError(
                f"augment.layer {self.op} must return images of the size of its input, "
                f"{list(shape[1:])}; it returned {list(returned[1:])}"
            )


def check_layer_name(name: str) -> None:
    """Refuses names of the wrong form; `make_layer` checks whether the layer exists."""
    if not PUBLIC_NAME.fullmatch(name):
        raise UserError(
            "augment.layer must be the public name of a Keras or KerasCV layer, such as "
            f'"keras_cv.layers.RandomCutout"; received "{name}"'
        )


def make_layer(name: str, options: Options, seed: int) -> keras.Layer:
    """Makes the layer with this public name.

    Only image preprocessing layers are allowed, because they run no code from a recipe.

    Raises:
        UserError: the layer does not exist, is of another kind, or refuses the options.
    """
    check_layer_name(name)
    library, _, class_name = name.split(".")
    try:
        known = preprocessing_layers(library)
    except Exception as error:  # KerasCV is no longer developed, and may fail under new versions
        raise UserError(
            f"augment.layer {name} needs {library}, which cannot be imported ({reason(error)}); "
            f"`pip install {library.replace('_', '-')}` provides it{_of_keras(library, class_name)}"
        ) from error
    if class_name in MIXING:
        raise UserError(
            f"augment.layer {name} mixes labels, which layers do not receive here; "
            "use the operation mixup or cutmix"
        )
    if class_name not in known:
        raise UserError(
            f"augment.layer {name} is not an image preprocessing layer; "
            f"{nearest(class_name, known)}"
        )
    _check_options(name, options)
    parameters = inspect.signature(known[class_name].__init__).parameters
    defaults = {"value_range": (0, 255), "seed": 1 + seed}  # KerasCV takes a seed of 0 for none
    defaults = {key: value for key, value in defaults.items() if key in parameters}
    try:
        return known[class_name](**defaults | {k: _as_tuple(v) for k, v in options.items()})
    except Exception as error:  # a layer may raise any exception
        raise _refusal(name, error) from error


def _of_keras(library: str, class_name: str) -> str:
    """Returns a clause that names Keras' own layer for one of KerasCV, if there is one."""
    own = OF_KERAS.get(class_name, class_name)
    if library == "keras" or own not in preprocessing_layers("keras"):
        return ""
    return f", or use Keras' own keras.layers.{own}"


def _as_tuple(value: Any) -> Any:  # any value of TOML
    """Turns lists, the only sequences of TOML, into tuples, which some layers require."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _check_options(name: str, options: Options) -> None:
    """Refuses tables: Keras turns them into objects of any class, such as a Lambda with code."""
    for key, value in options.items():
        values = [value]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                raise UserError(
                    f"augment.layer {name}: {key} is a table; use only numbers, strings, "
                    "booleans and lists of these"
                )
            values += value if isinstance(value, list | tuple) else []


def preprocessing_layers(library: str) -> dict[str, type[keras.Layer]]:
    """Returns the public layers of keras or keras_cv that change images: {class name: class}."""
    layers = import_module(f"{library}.layers")
    kinds: tuple[type[keras.Layer], ...]
    if library == "keras_cv":
        kinds = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    else:  # the base class has no public name, but a public layer inherits from it
        bases = {cls.__name__: cls for cls in layers.RandomBrightness.__mro__}
        kinds = (bases["BaseImagePreprocessingLayer"],)
    public = inspect.getmembers(layers, inspect.isclass)
    return {name: cls for name, cls in public if issubclass(cls, kinds) and cls not in kinds}


def _refusal(name: str, error: BaseException) -> UserError:
    while str(error).startswith("in user code:") and error.__context__:
        error = error.__context__  # TensorFlow puts its own file names before the layer's message
    message = BOLD.search(str(error))  # and Keras puts the arguments after it
    why = reason(message[1] if message else error)
    return UserError(f"augment.layer {name} does not work with these options: {why}")
