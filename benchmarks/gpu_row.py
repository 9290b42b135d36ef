"""Measures one row of `gpu.py` in a process of its own, which may run out of memory or crash.

The first line of standard input is a `gpu_records.Request`. When the first step is done, the
process prints a line of JSON about the network, then answers lines as `torch_peer.py` does:

    step N      {"seconds": of N training steps on one batch that lies on the devices}
    fed N       the same of steps that the recipe's pipeline feeds
    product N   the same of products of matrices, where the request has no recipe
    memory      {"peak_mb": the peak so far, "loss": the mean of all steps}

Before those that it times it makes as many uncounted ones. It ends when standard input does,
whatever it is doing. Under JAX TensorFlow is not imported before the first `fed`.
"""

import itertools
import json
import math
import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from gpu_records import Request, Settings

from keras_imnet64.backend.devices import (
    Devices,
    choose_backend,
    hide_gpus_from_tensorflow,
    take_devices,
)
from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import parse_record
from keras_imnet64.recipe.loading import check_recipe, parse_toml
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.memory import PeakMemory, is_out_of_memory

if TYPE_CHECKING:
    import keras

    from keras_imnet64.core.types import Tensor
    from keras_imnet64.data.stream import TrainingStream

STEPS_PER_EPOCH = 10_000  # for the learning rate's schedule


def main() -> None:
    """Answers the lines of standard input."""
    lines = lines_of_parent()
    request = parse_record(Request, next(lines))
    silence_libraries()
    choose_backend()
    devices = take_devices_for(request)
    from keras_imnet64.backend.keras_settings import keras_defaults

    with keras_defaults(), devices.scope():
        worker: Product | Network
        worker = Product(request, devices) if request.recipe is None else Network(request, devices)
        print(json.dumps(worker.facts()), flush=True)
        for line in lines:
            print(json.dumps(worker.reply(line)), flush=True)


def lines_of_parent() -> Iterator[str]:
    """Yields lines of standard input; its end, which comes with the parent's, ends this process."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.strip())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def take_devices_for(request: Request) -> Devices:
    """Takes the devices of a request; under JAX without TensorFlow."""
    if request.settings.reduced:
        return take_devices(virtual=max(1, request.num_devices), reads_data=False)
    devices = take_devices(request.num_devices or None, reads_data=False)
    if devices.kind == "cpu":
        raise UserError(
            f"{devices.backend} finds no GPU: `pip install '.[gpu]'` provides what it needs, and "
            "`python cli.py doctor` examines the installation"
        )
    return devices


# ------------------------------------------------------------------------------ matrix products


class Product:
    """Products of square matrices in bfloat16 on one device."""

    def __init__(self, request: Request, devices: Devices) -> None:
        self.devices = devices
        self.run = PRODUCTS[devices.backend](request.settings.matrix_size)

    def facts(self) -> JsonObject:
        return {"devices": list(self.devices.names)}

    def reply(self, line: str) -> JsonObject:
        return {"seconds": second_time(self.run, int(line.removeprefix("product ")))}


def second_time(work: Callable[[int], float], count: int) -> float:
    """Returns the seconds of `count` steps or products after as many that warm up."""
    work(count)
    return work(count)


def jax_product(size: int) -> Callable[[int], float]:
    """Returns a function that makes `count` products after each other, and returns its seconds."""
    import jax

    a, b = (jax.device_put(matrix(size, seed)).astype("bfloat16") for seed in (0, 1))
    multiply = jax.jit(lambda x, y: x @ y)

    def run(count: int) -> float:
        x = a
        start = time.perf_counter()
        for _ in range(count):
            x = multiply(x, b)
        jax.block_until_ready(x)
        return time.perf_counter() - start

    return run


def tensorflow_product(size: int) -> Callable[[int], float]:
    """Does as `jax_product`, under TensorFlow."""
    import tensorflow as tf

    a, b = (tf.cast(tf.constant(matrix(size, seed)), "bfloat16") for seed in (0, 1))
    multiply = tf.function(lambda x, y: x @ y, autograph=False)

    def run(count: int) -> float:
        x = a
        start = time.perf_counter()
        for _ in range(count):
            x = multiply(x, b)
        tf.test.experimental.sync_devices()
        return time.perf_counter() - start

    return run


def matrix(size: int, seed: int) -> np.ndarray:
    """Returns float32 [size, size] whose powers neither vanish nor overflow."""
    return np.random.default_rng(seed).standard_normal((size, size), "float32") / np.sqrt(size)


PRODUCTS = {"jax": jax_product, "tensorflow": tensorflow_product}

# ------------------------------------------------------------------------------ training steps


class Network:
    """The network of a recipe, compiled as `fit` compiles it, after its first step."""

    def __init__(self, request: Request, devices: Devices) -> None:
        from keras_imnet64.training.build import (
            compile_for_training,
            make_network,
            training_model,
        )

        assert request.recipe is not None
        recipe = check_recipe(parse_toml(request.recipe))
        devices.check_batch_size(recipe.data.batch_size)
        num_classes = recipe.num_classes or 1000
        self.settings, self.recipe, self.devices = request.settings, recipe, devices
        self.until_peak = ExitStack()
        self.memory = self.until_peak.enter_context(PeakMemory(devices))
        network = make_network(recipe, image_size=recipe.image_size, num_classes=num_classes)
        self.model = training_model(network)
        compile_for_training(self.model, recipe, STEPS_PER_EPOCH, devices)
        images, labels = random_batch(recipe.data.batch_size, recipe.image_size, num_classes)
        start = time.perf_counter()
        self.step = STEPS[devices.backend](self.model, devices, images, labels)
        self.compile_seconds = time.perf_counter() - start
        self.stream: TrainingStream | None = None
        self.epoch = 0

    def facts(self) -> JsonObject:
        from keras_imnet64.models.macs import count_macs, count_parameters

        return {
            "parameters": count_parameters(self.model),
            "macs": count_macs(self.model),
            "compile_seconds": self.compile_seconds,
            "first_loss": finite(self.step.first_loss),
        }

    def reply(self, line: str) -> JsonObject:
        if line == "memory":
            self.until_peak.close()
            return {"peak_mb": self.memory.megabytes, "loss": finite(self.step.loss())}
        task, _, count = line.partition(" ")
        tasks: dict[str, Callable[[int], float]] = {
            "step": lambda count: second_time(self.step, count),
            "fed": self.fed,
        }
        return {"seconds": tasks[task](int(count))}

    def fed(self, count: int) -> float:
        """Returns the seconds of the second half of 2 * count steps of `Model.fit`."""
        from keras_imnet64.bench.epochs import seconds_between_ends

        if self.stream is None:
            import_tensorflow()
            if self.devices.backend == "jax":
                hide_gpus_from_tensorflow()
            self.stream = random_stream(self.recipe, self.settings)
        self.stream.begin(self.epoch)
        self.epoch += 1
        return seconds_between_ends(self.model, self.stream.dataset(), count)[-1]


def random_batch(
    batch_size: int, image_size: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels, uint8 [B, H, W, 3], and labels, int32 [B]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, image_size, image_size, 3), "uint8")
    return images, rng.integers(0, num_classes, batch_size).astype("int32")


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None  # JSON has no NaN


class Step(ABC):
    """Makes training steps with the function that `Model.fit` compiles, on one resident batch."""

    def __init__(
        self, model: "keras.Model", devices: Devices, images: np.ndarray, labels: np.ndarray
    ) -> None:
        self.model = model
        first = model.fit(images, labels, len(images), shuffle=False, verbose=0)
        self.first_loss: float = first.history["loss"][0]
        self.batch = self.on_devices(devices, images, labels)
        self.logs: JsonObject = {}

    @abstractmethod
    def on_devices(self, devices: Devices, images: np.ndarray, labels: np.ndarray) -> "Tensor":
        """Returns the batch on the devices, as Keras lays out a batch."""

    @abstractmethod
    def __call__(self, count: int) -> float:
        """Makes `count` steps, and returns their seconds."""

    def loss(self) -> float:
        """Returns the mean loss of all steps so far."""
        return float(self.logs["loss"])


class JaxStep(Step):
    """Keras' step is jitted with its state donated: it writes the new where the old one was."""

    def on_devices(self, devices: Devices, images: np.ndarray, labels: np.ndarray) -> "Tensor":
        import jax

        if devices.strategy is None:
            return jax.device_put((images, labels))
        layout = devices.strategy.get_data_layout
        return tuple(
            jax.device_put(array, layout(array.shape).backend_layout) for array in (images, labels)
        )

    def __call__(self, count: int) -> float:
        import jax

        model = self.model
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = tuple([v.value for v in group] for group in groups)
        batches = itertools.repeat(self.batch)
        start = time.perf_counter()
        for _ in range(count):
            self.logs, state = model.train_function(state, batches)
        jax.block_until_ready((self.logs, state))
        seconds = time.perf_counter() - start
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        return seconds


class TensorFlowStep(Step):
    """Keras' step assigns the new state in place."""

    def on_devices(self, devices: Devices, images: np.ndarray, labels: np.ndarray) -> "Tensor":
        import tensorflow as tf

        if devices.strategy is None:
            with tf.device(devices.names[0]):
                return tuple(tf.identity(array) for array in (images, labels))
        dataset = tf.data.Dataset.from_tensors((images, labels))
        return next(iter(devices.strategy.experimental_distribute_dataset(dataset)))

    def __call__(self, count: int) -> float:
        import tensorflow as tf

        batches = itertools.repeat(self.batch)
        start = time.perf_counter()
        for _ in range(count):
            self.logs = self.model.train_function(batches)
        tf.test.experimental.sync_devices()
        return time.perf_counter() - start


STEPS: dict[str, type[Step]] = {"jax": JaxStep, "tensorflow": TensorFlowStep}

# ------------------------------------------------------------------------------ pipeline


def random_stream(recipe: Recipe, settings: Settings) -> "TrainingStream":
    """Returns the recipe's stream over an epoch of samples that repeat random images."""
    from keras_imnet64.bench.stand_in import random_data, stream_on

    data = random_data(recipe, settings.num_images)
    positions = np.resize(np.arange(settings.num_images), settings.num_samples)
    return stream_on(replace(data, train=replace(data.train, positions=positions)), recipe)


def run() -> None:
    """Calls `main`; a mistake, or memory that ran out, is one sentence on standard error."""
    try:
        main()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:  # each backend raises its own type when memory runs out
        if not is_out_of_memory(error):
            raise
        print(f"Error: out of memory: {reason(error)}", file=sys.stderr)
        sys.exit(RunFailed.exit_status)


if __name__ == "__main__":
    run()
