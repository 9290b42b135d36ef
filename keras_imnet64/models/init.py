"""Draws initial weights on the host: the same numbers under every backend.

Each variable is drawn from a generator keyed by (seed, variable path), with the distribution of its
layer's initialiser; the backend's own random numbers are never used.
"""

import hashlib
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import initializers, ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Variable
from keras_imnet64.models.keras_private import all_layers, are_without_weights, own_variables
from keras_imnet64.models.paths import SEED_STATE, by_path

# Standard deviation of a unit normal truncated at +-2; Keras divides by it to restore the variance.
TRUNCATED_STD = 0.87962566103423978
# Attributes with initialisers that are not called "<variable>_initializer".
INITIALIZER_NAMES = {"DepthwiseConv2D": {"kernel": "depthwise_initializer"}}
DETERMINISTIC = (initializers.Zeros, initializers.Ones, initializers.Constant)
RANDOM = (
    initializers.VarianceScaling,
    initializers.TruncatedNormal,
    initializers.RandomNormal,
    initializers.RandomUniform,
)


def initialize(model: keras.Model, seed: int, init: str = "default") -> None:
    """Draws every weight of `model` anew, and seeds its dropout and stochastic depth.

    Args:
        model: a built Keras model; all its layers have explicit names, which the paths contain.
        seed: the same seed gives the same weights on every backend.
        init: "default", or "dirac", see `pass_channels_on`.

    Raises:
        UserError: a layer uses an initialiser that `draw` does not know.
    """
    for layer in all_layers(model, include_self=False):
        draw_weights(layer, seed)
    if init == "dirac":
        pass_channels_on(model)
    seed_generators(model, seed)


def draw_weights(layer: keras.Layer, seed: int) -> None:
    """Draws the weights of one layer anew, but not of layers inside of it; see `initialize`."""
    for variable in own_variables(layer):
        initializer = _initializer(layer, variable)
        variable.assign(draw(initializer, variable.shape, seed, variable.path))


def pass_channels_on(model: keras.Model) -> None:
    """Makes each trainable convolution larger than 1x1 begin by passing its input channels on."""
    if are_without_weights():
        return
    for layer in all_layers(model, include_self=False):
        larger = isinstance(layer, keras.layers.Conv2D) and max(layer.kernel_size) > 1
        if larger and layer.trainable:
            layer.kernel.assign(dirac(ops.convert_to_numpy(layer.kernel)))


def dirac(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel [h, w, I, O] whose filter i gives input channel i, for all i < min(I, O).

    The other filters are kept. As in arXiv:2404.00498, which calls `torch.nn.init.dirac_` on the
    first I filters.
    """
    height, width, *channels = kernel.shape
    passed = np.arange(min(channels))
    kernel = kernel.copy()
    kernel[..., passed] = 0
    kernel[height // 2, width // 2, passed, passed] = 1
    return kernel


def seed_generators(model: keras.Model, seed: int) -> None:
    """Seeds dropout and stochastic depth by variable path, so that a run can be repeated."""
    for path, variable in by_path(model).items():
        if variable.name == SEED_STATE:
            bits = generator(seed, path).integers(2**31, dtype="uint32")
            variable.assign(np.array([bits, 0], "uint32"))


def generator(seed: int, path: str) -> np.random.Generator:
    """Returns a NumPy generator that depends on the seed and the variable's path alone."""
    words = np.frombuffer(hashlib.sha256(path.encode()).digest(), "<u4")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words.tolist()])))


def draw(initializer: keras.Initializer, shape: Sequence[int], seed: int, path: str) -> np.ndarray:
    """Returns a float32 array [*shape], distributed as the Keras initialiser would draw it."""
    shape = tuple(shape)
    if isinstance(initializer, DETERMINISTIC):
        return np.full(shape, _constant(initializer), "float32")
    rng = generator(seed, path)
    if isinstance(initializer, initializers.VarianceScaling):
        return _variance_scaling(initializer, shape, rng)
    if isinstance(initializer, initializers.TruncatedNormal):
        return initializer.mean + initializer.stddev * _truncated_normal(shape, rng)
    if isinstance(initializer, initializers.RandomNormal):
        return initializer.mean + initializer.stddev * rng.standard_normal(shape, "float32")
    if isinstance(initializer, initializers.RandomUniform):
        return rng.uniform(initializer.minval, initializer.maxval, shape).astype("float32")
    raise UserError(
        f"{path} has the initialiser {type(initializer).__name__}, which is not drawn on the host; "
        "use VarianceScaling, a normal, a uniform or a constant one"
    )


def is_drawn(initializer: keras.Initializer) -> bool:
    """Whether `draw` draws from an initialiser, for any shape."""
    is_number = np.ndim(getattr(initializer, "value", 0)) == 0
    return isinstance(initializer, RANDOM + DETERMINISTIC) and is_number


def _initializer(layer: keras.Layer, variable: Variable) -> keras.Initializer:
    names = INITIALIZER_NAMES.get(type(layer).__name__, {})
    return getattr(layer, names.get(variable.name, f"{variable.name}_initializer"))


def _constant(initializer: keras.Initializer) -> float:
    if isinstance(initializer, initializers.Constant):
        return initializer.value
    return float(isinstance(initializer, initializers.Ones))


def _variance_scaling(
    initializer: initializers.VarianceScaling, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    fan_in, fan_out = fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    variance = initializer.scale / max(1.0, fan[initializer.mode])
    if initializer.distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape).astype("float32")
    if initializer.distribution == "truncated_normal":
        return _truncated_normal(shape, rng) * np.float32(math.sqrt(variance) / TRUNCATED_STD)
    return rng.standard_normal(shape, "float32") * np.float32(math.sqrt(variance))


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Returns (fan_in, fan_out) of a kernel [..., in, out] as Keras counts; (C, C) of a vector."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


def _truncated_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws from a unit normal; values beyond +-2 are drawn again."""
    values = rng.standard_normal(shape, "float32")
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()), "float32")
    return values
