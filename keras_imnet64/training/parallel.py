"""Settings of a training model on several devices: batch statistics and the compiler."""

from typing import Literal

import keras

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import UserError
from keras_imnet64.models.keras_private import all_layers


def set_batch_norm(
    model: keras.Model, mode: Literal["global", "per_device"], devices: Devices
) -> None:
    """Makes batch normalisation see the global batch ("global") or each device's part.

    What ships has plain normalisation; `as_before` gives it back to a model of the caller's. Under
    JAX a step is one program over the global batch, so its statistics are global by nature.
    """
    check_batch_norm(mode, devices)
    if devices.count == 1 or devices.backend == "jax":
        return
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = mode == "global"


def check_batch_norm(mode: Literal["global", "per_device"], devices: Devices) -> None:
    """Refuses statistics of each device's part where a step is one program."""
    if mode == "per_device" and devices.backend == "jax" and devices.count > 1:
        raise UserError(
            'train.batch_norm = "per_device" does not exist under jax on several devices, '
            'where statistics are global; use "global" or --backend tensorflow'
        )


def jit_compile(xla: Literal["auto", "on", "off"], devices: Devices) -> bool:
    """Returns whether Keras compiles the step with XLA.

    "auto" is on for one TensorFlow GPU. It is off for the CPU, where gradients of convolutions are
    slow under XLA, and under MirroredStrategy, where Keras 3.15 fails with XLA. JAX always
    compiles.

    Raises:
        UserError: the backend cannot on these devices.
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
