"""Layers' functions for a TensorFlow training step: the same results as Keras' layers, faster.

Each function of `KERNELS` takes a layer of Keras and returns what the training model calls instead,
or None where the layer's settings need Keras' own code. The layer keeps its variables. What each
function is worth is in docs/results/speed.md.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import keras
import tensorflow as tf

from keras_imnet64.core.types import Tensor, Variable

Kernel: TypeAlias = Callable[[Tensor], Tensor]  # inputs of a layer -> outputs, in training

TYPES = ("float32", "bfloat16")  # of activations; weights are float32
MAX_SMALL_MAP = 16  # positions of an output map, see `conv2d`
MIN_SMALL_MAP_CHANNELS = 64

# --------------------------------------------------------------------------- batch normalisation


def batch_norm(layer: keras.layers.BatchNormalization) -> Kernel | None:
    """Uses the fused kernel: statistics in float32, activations in the layer's type.

    Keras' layer computes mean, variance and scaling one after the other, in float32.
    """
    axis = layer.axis if layer.axis < 0 else layer.axis - layer.input_spec.ndim
    if axis != -1 or layer.renorm or not has_types(layer):
        return None

    def call(inputs: Tensor) -> Tensor:
        if not layer.trainable:  # a frozen layer uses its moving statistics
            return layer(inputs, training=True)
        channels = inputs.shape[-1]
        x = tf.cast(inputs, layer.compute_dtype)
        if len(x.shape) != 4:
            x = tf.reshape(x, (-1, 1, 1, channels))
        gamma = as_tensor(layer.gamma) if layer.scale else tf.ones(channels)
        beta = as_tensor(layer.beta) if layer.center else tf.zeros(channels)
        normalize = normalize_globally if layer.synchronized else normalize_batch
        outputs, mean, variance = normalize(x, gamma, beta, layer.epsilon)
        for average, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            average.assign(average * layer.momentum + value * (1 - layer.momentum))
        return reshape(outputs, inputs, channels)

    return call


def normalize_batch(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises a device's part of a batch.

    Args:
        x: float32 or bfloat16 [B, H, W, C].
        gamma, beta: float32 [C].

    Returns:
        Outputs like x, and the mean and biased variance of each channel, float32 [C].
    """
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = num_positions(x)
    biased = variance * ((count - 1) / count)  # the kernel divides by count - 1
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(biased)


def normalize_globally(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises with the statistics of all devices; one reduction over them in each direction.

    Arguments and results as in `normalize_batch`. Each device has a part of the same size.
    """
    replicas = tf.distribute.get_replica_context()

    def mean_over_devices(*per_channel: Tensor) -> list[Tensor]:
        total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(per_channel))
        return tf.unstack(total / replicas.num_replicas_in_sync)

    wide = tf.cast(x, "float32")
    mean, square = mean_over_devices(
        tf.reduce_mean(wide, (0, 1, 2)), tf.reduce_mean(tf.square(wide), (0, 1, 2))
    )
    variance = tf.maximum(square - tf.square(mean), 0)

    @tf.custom_gradient
    def normalize(
        x: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        scale = tf.math.rsqrt(variance + epsilon)  # [C]
        outputs, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        )

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """For a loss L: dL/dx = gamma * scale * (g - mean(g) - x_hat * mean(g * x_hat))."""
            g, x_hat = tf.cast(upstream, "float32"), (tf.cast(x, "float32") - mean) * scale
            sum_g, sum_g_x = tf.reduce_sum(g, (0, 1, 2)), tf.reduce_sum(g * x_hat, (0, 1, 2))
            count = num_positions(x)
            mean_g, mean_g_x = mean_over_devices(sum_g / count, sum_g_x / count)
            dx = gamma * scale * (g - mean_g - x_hat * mean_g_x)
            return tf.cast(dx, x.dtype), sum_g_x, sum_g

        return outputs, gradient

    return normalize(x, gamma, beta), tf.stop_gradient(mean), tf.stop_gradient(variance)


# ---------------------------------------------------------------- convolutions and dense layers


def convolution(layer: keras.layers.Conv2D) -> Kernel | None:
    """Chooses the fastest way to each gradient on a CPU; see `conv2d`."""
    plain = layer.data_format == "channels_last" and layer.groups == 1 and layer.rank == 2
    if not plain or layer.dilation_rate != (1, 1) or not runs_on_cpu(layer):
        return None

    def call(inputs: Tensor) -> Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        kernel = tf.cast(as_tensor(layer.kernel), x.dtype)
        if layer.kernel_size == layer.strides == (1, 1):
            outputs = linear(x, kernel[0, 0])
        else:
            outputs = conv2d(x, kernel, layer.strides, layer.padding.upper())
        return finish(layer, outputs)

    return call


def dense(layer: keras.layers.Dense) -> Kernel | None:
    """Multiplies a matrix of all positions, with the bias gradient of `bias_add`."""
    if not runs_on_cpu(layer):
        return None

    def call(inputs: Tensor) -> Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        return finish(layer, linear(x, tf.cast(as_tensor(layer.kernel), x.dtype)))

    return call


def runs_on_cpu(layer: keras.Layer) -> bool:
    return has_types(layer) and not tf.config.list_logical_devices("GPU")


def finish(layer: keras.Layer, outputs: Tensor) -> Tensor:
    """Adds a layer's bias and applies its activation."""
    if layer.use_bias:
        outputs = bias_add(outputs, tf.cast(as_tensor(layer.bias), outputs.dtype))
    return layer.activation(outputs) if layer.activation else outputs


def linear(x: Tensor, kernel: Tensor) -> Tensor:
    """Returns x [..., C] times a kernel [C, F]: [..., F]."""
    outputs = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return reshape(outputs, x, kernel.shape[-1])


def conv2d(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: str) -> Tensor:
    """A convolution whose kernel's gradient on small maps is made of matrix products.

    There, oneDNN's kernel for bfloat16 reaches a fifth to a half of the rate of a product: for
    [64, 4, 4, 512] by 3x3x512x512 22.6 against 7.1 ms.

    Args:
        x: [B, H, W, C].
        kernel: [kh, kw, C, F].
    """
    settings = {"strides": [1, *strides, 1], "padding": padding}
    height, width, channels = x.shape[1:]

    def gradient_of_kernel(x: Tensor, upstream: Tensor) -> Tensor:
        map_size = upstream.shape[1] * upstream.shape[2]
        small = map_size <= MAX_SMALL_MAP and channels >= MIN_SMALL_MAP_CHANNELS
        if small and x.dtype == tf.bfloat16:
            return kernel_gradient_by_products(x, upstream, kernel.shape, strides, padding)
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=kernel.shape, out_backprop=upstream, **settings
        )

    @tf.custom_gradient
    def convolve(
        x: Tensor, kernel: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            of_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **settings
            )
            return of_inputs, gradient_of_kernel(x, upstream)

        return tf.raw_ops.Conv2D(input=x, filter=kernel, **settings), gradient

    if height is None or width is None:
        return tf.raw_ops.Conv2D(input=x, filter=kernel, **settings)
    return convolve(x, kernel)


def kernel_gradient_by_products(
    x: Tensor, upstream: Tensor, shape: tuple[int, ...], strides: tuple[int, int], padding: str
) -> Tensor:
    """Returns a convolution's gradient [kh, kw, C, F], a product for each tap of the kernel."""
    _, height, width, filters = upstream.shape
    kh, kw, channels, _ = shape
    down, right = strides
    if padding == "SAME":
        margins = [
            same_padding(size, taps, stride)
            for size, taps, stride in zip(x.shape[1:3], (kh, kw), strides, strict=True)
        ]
        x = tf.pad(x, [(0, 0), *margins, (0, 0)])

    def product(i: int, j: int) -> Tensor:
        end_row, end_column = i + (height - 1) * down + 1, j + (width - 1) * right + 1
        under_tap = x[:, i:end_row:down, j:end_column:right]  # [B, height, width, C]
        return tf.matmul(g, tf.reshape(under_tap, (-1, channels)), transpose_a=True)  # [F, C]

    g = tf.reshape(upstream, (-1, filters))
    products = tf.stack([product(i, j) for i in range(kh) for j in range(kw)])
    return tf.reshape(tf.transpose(products, (0, 2, 1)), shape)


def same_padding(size: int, taps: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis that TensorFlow's padding "SAME" adds."""
    total = max((math.ceil(size / stride) - 1) * stride + taps - size, 0)
    return total // 2, total - total // 2


@tf.custom_gradient
def bias_add(x: Tensor, bias: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Adds a bias [C], whose gradient is a product with a row of ones.

    TensorFlow merges its own kernel for that gradient into the convolution's; in bfloat16 the sums
    then depend on which thread runs it first, and a run cannot be repeated to the bit.
    """

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        rows = tf.reshape(upstream, (-1, upstream.shape[-1]))
        ones = tf.ones((1, tf.shape(rows)[0]), rows.dtype)
        return upstream, tf.reshape(tf.matmul(ones, rows, name="bias_gradient"), (-1,))

    return tf.nn.bias_add(x, bias), gradient


# -------------------------------------------------------------------- functions of one element


def activation(layer: keras.layers.Activation) -> Kernel | None:
    """Compiles the exact GELU and its derivative into one pass over the elements."""
    if layer.activation is not keras.activations.gelu or not has_types(layer):
        return None

    def call(inputs: Tensor) -> Tensor:
        return gelu(tf.cast(inputs, layer.compute_dtype))

    return call


@tf.custom_gradient
def gelu(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns x * Phi(x), with the normal distribution's Phi (arXiv:1606.08415)."""
    outputs, derivative = gelu_and_derivative(x)
    return outputs, lambda upstream: upstream * derivative


@tf.function(jit_compile=True)
def gelu_and_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = tf.cast(x, "float32")
    phi = 0.5 * (1 + tf.math.erf(wide / math.sqrt(2)))
    density = tf.exp(-0.5 * tf.square(wide)) / math.sqrt(2 * math.pi)
    return tf.cast(wide * phi, x.dtype), tf.cast(phi + wide * density, x.dtype)


# --------------------------------------------------------------------------- layer normalisation


def layer_norm(layer: keras.layers.LayerNormalization) -> Kernel | None:
    """Compiles the normalisation of each position, and its gradient, into one pass each."""
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axis != [-1] or layer.rms_scaling or not (layer.center and layer.scale):
        return None
    if not has_types(layer):
        return None

    def call(inputs: Tensor) -> Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        return normalize_positions(
            x, as_tensor(layer.gamma), as_tensor(layer.beta), tf.constant(layer.epsilon)
        )

    return call


@tf.custom_gradient
def normalize_positions(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor, None]]]:
    """Normalises the last axis of x [..., C] (arXiv:1607.06450); statistics in float32."""
    outputs, mean, scale = layer_norm_forward(x, gamma, beta, epsilon)

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *layer_norm_backward(x, gamma, mean, scale, upstream), None

    return outputs, gradient


@tf.function(jit_compile=True)
def layer_norm_forward(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    wide = tf.cast(x, "float32")
    mean = tf.reduce_mean(wide, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(wide - mean), -1, keepdims=True)
    scale = tf.math.rsqrt(variance + epsilon)
    return tf.cast((wide - mean) * scale * gamma + beta, x.dtype), mean, scale


@tf.function(jit_compile=True)
def layer_norm_backward(
    x: Tensor, gamma: Tensor, mean: Tensor, scale: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    g, x_hat = tf.cast(upstream, "float32"), (tf.cast(x, "float32") - mean) * scale
    scaled = g * gamma
    mean_g = tf.reduce_mean(scaled, -1, keepdims=True)
    mean_g_x = tf.reduce_mean(scaled * x_hat, -1, keepdims=True)
    dx = scale * (scaled - mean_g - x_hat * mean_g_x)
    positions = list(range(len(x.shape) - 1))
    return tf.cast(dx, x.dtype), tf.reduce_sum(g * x_hat, positions), tf.reduce_sum(g, positions)


# -----------------------------------------------------------------------------------------------


def has_types(layer: keras.Layer) -> bool:
    return layer.compute_dtype in TYPES and layer.variable_dtype == "float32"


def num_positions(x: Tensor) -> Tensor:
    """Returns B * H * W, float32; an integer of 32 bits would be too small for large batches."""
    return tf.reduce_prod(tf.cast(tf.shape(x)[:-1], "float32"))


def reshape(x: Tensor, like: Tensor, channels: int) -> Tensor:
    """Returns x in the shape of `like`, but for the last axis."""
    if list(like.shape[:-1]).count(None) > 1:
        return tf.reshape(x, tf.concat([tf.shape(like)[:-1], [channels]], 0))
    return tf.reshape(x, [-1 if size is None else size for size in (*like.shape[:-1], channels)])


def as_tensor(variable: Variable) -> Tensor:
    return tf.convert_to_tensor(variable)


KERNELS: Mapping[type[keras.Layer], Callable[..., Kernel | None]] = {
    keras.layers.Activation: activation,
    keras.layers.BatchNormalization: batch_norm,
    keras.layers.Conv2D: convolution,
    keras.layers.Dense: dense,
    keras.layers.LayerNormalization: layer_norm,
}
