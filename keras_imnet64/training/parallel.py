"""What several devices ask of a training model: global batch statistics, and which compiler."""

import keras

from keras_imnet64.core.errors import UserError


def set_batch_norm(model, mode, devices):
    """Make batch normalisation see the global batch ("global") or each device's part.

    Only the training model changes; what ships has plain normalisation. Under JAX a step is one
    program over the global batch, so its statistics are global by nature.
    """
    if devices.count == 1:
        return
    if devices.backend == "jax":
        if mode == "per_device":
            raise UserError(
                'train.batch_norm = "per_device" does not exist under jax on several devices, '
                'where statistics are global; use "global" or --backend tensorflow'
            )
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = mode == "global"


def jit_compile(xla, devices):
    """Whether Keras is to compile the step with XLA, from a recipe's "auto", "on" or "off".

    auto: on one TensorFlow GPU; not on its CPU, where gradients of convolutions are slow under XLA,
    nor under MirroredStrategy, where Keras 3.15 fails with it. JAX always compiles.
    """
    if devices.backend == "jax":
        if xla == "off":
            raise UserError('train.xla = "off" does not exist under jax, which always compiles')
        return True
    if xla == "on" and devices.count > 1:
        raise UserError(
            'train.xla = "on" does not work with tensorflow on several devices; '
            'use "auto", --devices 1 or --backend jax'
        )
    return xla == "on" or (xla == "auto" and devices.kind == "gpu" and devices.count == 1)
