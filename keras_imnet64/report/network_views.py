"""What a network looks at: the filters of its first layer, and Grad-CAM of single images.

Grad-CAM (arXiv:1610.02391) weights each channel of the last feature map by the mean gradient of a
class's logit. Only the part behind that map is differentiated, so that little is compiled.
"""

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.contract import output_of, with_logits
from keras_imnet64.models.keras_private import all_layers

CHANNELS_OF_PIXELS = 3


def first_filters(model: keras.Model) -> np.ndarray | None:
    """Returns the kernels of the first convolution, float32 [F, h, w, 3].

    Returns None if the network has no convolution, or its first one does not see colours, as behind
    a band of a spectral network.
    """
    for layer in all_layers(model):
        if type(layer) is keras.layers.Conv2D:
            kernel = ops.convert_to_numpy(layer.kernel)  # [h, w, channels, F]
            if kernel.shape[2] != CHANNELS_OF_PIXELS:
                return None
            return np.moveaxis(np.asarray(kernel, "float32"), 3, 0)
    return None


def feature_layer(model: keras.Model) -> keras.Layer | None:
    """Returns the layer with the last feature map of a convolutional network, else None.

    It is the layer `features` of our networks, of others the last one with a map. A network with
    attention mixes places before its last map, and an ensemble has several maps: both have none.
    """
    kinds = {type(layer).__name__.lower() for layer in all_layers(model)}
    if any("attention" in kind or "permute" in kind for kind in kinds):
        return None
    found, has_convolution = None, False
    for layer in model.layers:
        has_convolution |= isinstance(layer, keras.layers.Conv2D)
        shape = getattr(layer.output, "shape", ())
        if has_convolution and len(shape) == 4 and 1 not in shape[1:3]:
            found = layer
            if layer.name == "features":
                break
    return found


def grad_cam(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Returns where the evidence for a class is in each image, floats [B, h, w] in 0..1.

    Args:
        model: pixels [B, H, W, 3] -> logits [B, K], or probabilities.
        images: uint8 [B, H, W, 3].
        classes: integers [B].

    Returns:
        None for a network without a last feature map, see `feature_layer`, or with several.
    """
    network = with_logits(model)
    layer = feature_layer(network)
    if layer is None:
        return None
    feature_map = output_of(network, layer)
    try:
        head = keras.Model(feature_map, network.outputs[0])
    except ValueError:  # the logits do not depend on this map alone
        return None
    features = _apply(keras.Model(network.inputs[0], feature_map), images)  # [B, h, w, C]
    weights = _gradient(head, features, classes).mean(axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
    maps = np.maximum((weights * features).sum(axis=3), 0)  # [B, h, w]
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def _apply(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the outputs for few images, which `Model.predict` would share out over devices."""
    pixels = images.astype("float32")
    if keras.config.backend() == "jax":
        import jax

        return np.asarray(jax.jit(lambda x: model(x, training=False))(pixels))
    return np.asarray(ops.convert_to_numpy(model(pixels, training=False)))


def _gradient(head: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the gradients of one logit of each image, float32 [B, h, w, C]."""
    chosen = ops.one_hot(classes, head.output_shape[-1])  # [B, K]

    def total(x: Tensor) -> Tensor:
        return ops.sum(chosen * head(x, training=False))

    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(features)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = total(x)
        return np.asarray(tape.gradient(value, x))
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(total)(features))
    x = ops.convert_to_tensor(features).requires_grad_()
    total(x).backward()
    return ops.convert_to_numpy(x.grad)
