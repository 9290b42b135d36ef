"""The peak memory of training steps, without that of the framework around them.

On a CPU the memory is what no file backs, at its peak, minus what the process holds after it has
trained a very small network. The difference consists of weights, gradients, optimizer and
activations, as on a GPU, where the allocator counts them alone.
"""

import keras
import tensorflow as tf

from keras_imnet64.backend.devices import Devices
from keras_imnet64.bench.stand_in import random_data, stream_on
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.training.memory import PeakMemory, anonymous_bytes
from keras_imnet64.training.setup import setup_on

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
        """Returns the peak without the framework.

        None where the system does not count, or a step needs no more than the framework itself.
        """
        if self.megabytes is None:
            return None
        megabytes = round(self.megabytes - self.before / 1e6, 1)
        return megabytes if megabytes > 0 else None


def train_very_small_network(devices: Devices) -> None:
    """Makes a few steps of the recipe `demo`, so that the framework holds what it always does."""
    recipe = load_recipe("demo", [f"data.batch_size={8 * devices.count}"])
    data = random_data(recipe)
    stream = stream_on(data, recipe)
    batches = tf.data.Dataset.from_tensors(stream.batch(epoch=0, step=0)).repeat()
    setup = setup_on(data, stream, recipe, devices)
    with devices.scope():
        setup.model.fit(batches, steps_per_epoch=NUM_STEPS, epochs=1, shuffle=False, verbose=0)
    keras.utils.clear_session()
