"""The peak memory of training steps, without that of the framework around them.

On a CPU the memory is what no file backs, at its peak, minus what the process holds after it has
trained a very small network. The difference consists of weights, gradients, optimizer and
activations, as on a GPU, where the allocator counts them alone.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_imnet64.backend.devices import Devices
from keras_imnet64.training.memory import PeakMemory, anonymous_bytes

NUM_STEPS = 3


class StepMemory(PeakMemory):
    """Measures the peak within its context beyond that of the framework.

    Attributes:
        before: bytes of the framework; 0 on a GPU.
    """

    def __init__(self, devices: Devices) -> None:
        super().__init__(devices)
        train_very_small_network(devices)
        self.before = anonymous_bytes() if devices.kind == "cpu" else 0

    @property
    def step_megabytes(self) -> float | None:
        """Returns the peak without the framework; None where the system does not count."""
        if self.megabytes is None:
            return None
        return round(self.megabytes - self.before / 1e6, 1)


def train_very_small_network(devices: Devices) -> None:
    """Makes a few steps with each kind of layer, so that the framework holds what it always does.

    Its convolution, normalisation and optimizer make the libraries allocate what they share.
    """
    rng = np.random.default_rng(0)
    images = rng.random((8, 16, 16, 3), "float32")
    batch = (images, np.arange(8, dtype="int32"))
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    with devices.scope():
        model = keras.Sequential(
            [
                keras.layers.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(8),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
        model.fit(dataset, steps_per_epoch=NUM_STEPS, epochs=1, shuffle=False, verbose=0)
    keras.utils.clear_session()
