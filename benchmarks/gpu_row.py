"""Measures one row of `gpu.py` in a process of its own, which may run out of memory or crash.

    python benchmarks/gpu_row.py REQUEST

REQUEST is a `Request` as JSON. Each stage prints what it has found as one line of JSON, so that a
crash keeps the stages before it. Rows of JAX import no TensorFlow until the stage of the pipeline,
which is left out where TensorFlow is not installed.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

    from keras_imnet64.backend.devices import Devices
    from keras_imnet64.core.types import JsonObject, Tensor
    from keras_imnet64.data.stream import TrainingStream
    from keras_imnet64.recipe.schema import Recipe

MATRIX_PRODUCT = "matrix product"  # in place of a network
ENGINES = {  # {engine: (backend, train.xla)}
    "tensorflow": ("tensorflow", "off"),
    "tensorflow+xla": ("tensorflow", "on"),
    "jax": ("jax", "auto"),
}
# {network: (recipe, changes)}. The normalisation is ImageNet's, because there are no images to
# measure; nothing else of a step depends on it.
NETWORKS: "dict[str, tuple[str, dict[str, JsonObject]]]"
NETWORKS = {
    "wrn36_5": ("wrn36_5", {}),
    "resnet50": (  # stem "small" with the optimizer of giung2-jax
        "wrn36_5",
        {
            "model": {"name": "resnet50", "stem": "small"},
            "data": {"mirror": "random"},
            "loss": {"l2": 2.5e-4, "l2_of": "all"},
            "optimizer": {"nesterov": True},
        },
    ),
    "wide_resnet50_2": ("wide_resnet50_2_64", {}),
    "davit_tiny": ("davit_tiny_64", {}),
    "tiny": (  # for trying the script
        "wrn36_5",
        {
            "model": {"depth": 8, "width": 0.5},
            "data": {"dataset": "imagenet_resized/16x16"},
        },
    ),
}
MAX_AHEAD = 64  # batches: with more steps left, the pipeline never runs into the end of the epoch
MAX_STEPS = 500  # of a block
STEPS_PER_EPOCH = 10_000  # for the learning rate's schedule


@dataclass(frozen=True)
class Request:
    """What one process measures.

    Attributes:
        network: a key of NETWORKS, or MATRIX_PRODUCT.
        engine: a key of ENGINES.
        batch_size: images per step on each device.
        num_devices: 0 for all.
        virtual: whether the devices are parts of the CPU.
        images: a store of generated images for the pipeline; None leaves that stage out.
        num_samples: images in an epoch of the pipeline, which repeats those of the store.
        matrix_size: rows and columns of the matrices of MATRIX_PRODUCT.
        block_seconds: the time of a block of steps, of which the engine makes `num_blocks`.
    """

    network: str
    engine: str
    num_devices: int
    batch_size: int
    dtype: str
    virtual: bool
    images: str | None
    num_samples: int
    matrix_size: int
    block_seconds: float
    num_blocks: int

    @property
    def backend(self) -> str:
        return ENGINES[self.engine][0]


def main() -> None:
    from keras_imnet64.core.errors import UserError, reason
    from keras_imnet64.core.processes import end_with_parent
    from keras_imnet64.training.memory import is_out_of_memory

    request = Request(**json.loads(sys.argv[1]))
    end_with_parent()
    try:
        if request.network == MATRIX_PRODUCT:
            emit(measure_product(request))
        else:
            measure_network(request)
    except UserError as error:
        emit({"failure": str(error)})
    except Exception as error:  # each backend raises its own type when memory runs out
        if not is_out_of_memory(error):
            raise
        emit({"out_of_memory": True, "failure": reason(error)})


def emit(found: "JsonObject") -> None:
    print(json.dumps(found), flush=True)


def take_devices_for(request: Request) -> "Devices":
    """Takes the devices of a request; under JAX without TensorFlow."""
    from keras_imnet64.backend.devices import choose_backend, take_devices
    from keras_imnet64.core.library_logs import silence_libraries

    silence_libraries()
    choose_backend(request.backend)
    if request.virtual:
        return take_devices(virtual=max(1, request.num_devices), reads_data=False)
    return take_devices(request.num_devices or None, reads_data=False)


# --------------------------------------------------------------------------------- matrix product


def measure_product(request: Request) -> "JsonObject":
    """Returns the rate of bfloat16 products of square matrices on one device, and all devices."""
    devices = take_devices_for(replace(request, num_devices=0))
    size = request.matrix_size
    product = PRODUCTS[request.backend](size)
    product(2)  # compiles, and lets the chip reach its clock
    count = blocks_of(product(4) / 4, request)
    seconds = min(product(count) / count for _ in range(request.num_blocks))
    return {
        "devices": list(devices.names),
        "device_kind": devices.kind,
        "size": size,
        "product_seconds": seconds,
        "flops": 2 * size**3 / seconds,
    }


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

# ----------------------------------------------------------------------------------------- network


def recipe_of(request: Request) -> "Recipe":
    """Returns the recipe whose step a request measures; its batch is that of all devices."""
    from keras_imnet64.recipe.loading import check_recipe, load_recipe, override

    name, changes = NETWORKS[request.network]
    content = load_recipe(name).model_dump(exclude_none=True, exclude_unset=True)
    content["data"].pop("steps_per_epoch", None)
    override(content, changes)
    content["name"] = request.network
    content["model"]["normalization"] = "imagenet"
    content["data"]["batch_size"] = request.batch_size * max(1, request.num_devices)
    content["train"] |= {"dtype": request.dtype}
    if request.engine in ENGINES:
        content["train"]["xla"] = ENGINES[request.engine][1]
    return check_recipe(content)


def measure_network(request: Request) -> None:
    """Measures the step on a batch that lies on the devices, then as the pipeline feeds it."""
    devices = take_devices_for(request)
    from keras_imnet64.backend.keras_settings import keras_defaults
    from keras_imnet64.models.macs import count_macs, count_parameters
    from keras_imnet64.training.build import compile_for_training, make_network, training_model
    from keras_imnet64.training.memory import PeakMemory

    recipe = recipe_of(request)
    num_classes = recipe.num_classes or 1000
    devices.check_batch_size(recipe.data.batch_size)
    with keras_defaults(), devices.scope():
        with PeakMemory(devices) as memory:
            network = make_network(recipe, image_size=recipe.image_size, num_classes=num_classes)
            model = training_model(network)
            compile_for_training(model, recipe, STEPS_PER_EPOCH, devices)
            emit({"parameters": count_parameters(model), "macs": count_macs(model)})
            images, labels = random_batch(recipe.data.batch_size, recipe.image_size, num_classes)
            start = time.perf_counter()
            step = STEPS[devices.backend](model, devices, images, labels)
            step(1)
            emit({"compile_seconds": time.perf_counter() - start})
            step(1)  # the second may compile again, where the state has another layout
            count = blocks_of(step(2) / 2, request)
            seconds = [step(count) / count for _ in range(request.num_blocks)]
        emit(
            {
                "steps_per_block": count,
                "step_seconds": seconds,
                "peak_memory_mb": memory.megabytes,
                "first_loss": step.first_loss,
                "loss": step.loss(),
                "imports_tensorflow": "tensorflow" in sys.modules,
            }
        )
        if request.images is None:
            return
        if is_missing("tensorflow"):
            emit({"pipeline_failure": "TensorFlow, which reads the data, is not installed"})
            return
        with stage("pipeline"):
            emit(measure_pipeline(model, step, recipe, devices, request))


def blocks_of(seconds: float, request: Request) -> int:
    """Returns the number of steps in a block."""
    return int(min(MAX_STEPS, max(2, round(request.block_seconds / max(seconds, 1e-9)))))


def random_batch(
    batch_size: int, image_size: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels, uint8 [B, H, W, 3], and labels, int32 [B]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, image_size, image_size, 3), "uint8")
    return images, rng.integers(0, num_classes, batch_size).astype("int32")


def is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:
        return True


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Reports a failure of a later stage, which leaves what is measured already as it is."""
    from keras_imnet64.core.errors import reason

    try:
        yield
    except Exception as error:
        emit({f"{name}_failure": reason(error)})


class JaxStep:
    """Makes training steps with the function that `Model.fit` compiles, on one resident batch.

    Keras' step is jitted with its state donated, so that each step writes the new state where the
    old one was. The batch lies on the devices as Keras lays out a batch.
    """

    def __init__(
        self, model: "keras.Model", devices: "Devices", images: np.ndarray, labels: np.ndarray
    ) -> None:
        import jax

        self.model = model
        first = model.fit(images, labels, len(images), shuffle=False, verbose=0)
        self.first_loss = first.history["loss"][0]
        if devices.strategy is None:
            self.batch = jax.device_put((images, labels))
        else:
            layout = devices.strategy.get_data_layout
            self.batch = tuple(
                jax.device_put(array, layout(array.shape).backend_layout)
                for array in (images, labels)
            )
        self.logs: JsonObject = {}

    def __call__(self, count: int) -> float:
        """Makes `count` steps, and returns their seconds."""
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

    def loss(self) -> float:
        """Returns the mean loss of all steps so far."""
        return float(self.logs["loss"])


class TensorFlowStep:
    """Does as `JaxStep`, under TensorFlow."""

    def __init__(
        self, model: "keras.Model", devices: "Devices", images: np.ndarray, labels: np.ndarray
    ) -> None:
        import tensorflow as tf

        self.model = model
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()
        first = model.fit(dataset, steps_per_epoch=1, shuffle=False, verbose=0)
        self.first_loss = first.history["loss"][0]
        if devices.strategy is None:
            with tf.device(devices.names[0]):
                self.batch: Tensor = tuple(tf.identity(array) for array in (images, labels))
        else:
            self.batch = next(iter(devices.strategy.experimental_distribute_dataset(dataset)))
        self.logs: JsonObject = {}

    def __call__(self, count: int) -> float:
        """Makes `count` steps, and returns their seconds."""
        import tensorflow as tf

        batches = itertools.repeat(self.batch)
        start = time.perf_counter()
        for _ in range(count):
            self.logs = self.model.train_function(batches)
        tf.test.experimental.sync_devices()
        return time.perf_counter() - start

    def loss(self) -> float:
        """Returns the mean loss of all steps so far."""
        return float(self.logs["loss"])


Step = JaxStep | TensorFlowStep
STEPS = {"jax": JaxStep, "tensorflow": TensorFlowStep}

# ---------------------------------------------------------------------------------------- pipeline


def measure_pipeline(
    model: "keras.Model", step: Step, recipe: "Recipe", devices: "Devices", request: Request
) -> "JsonObject":
    """Alternates blocks of `Model.fit`, fed by the recipe's pipeline, with blocks of `step`."""
    from keras_imnet64.backend.devices import hide_gpus_from_tensorflow
    from keras_imnet64.core.library_logs import import_tensorflow

    import_tensorflow()
    if devices.backend == "jax":
        hide_gpus_from_tensorflow()
    assert request.images is not None
    stream = generated_stream(recipe, request.images, request.num_samples)
    dataset = stream.dataset()
    most = max(1, (stream.steps_per_epoch - MAX_AHEAD) // 2)
    fed: list[float] = []
    resident: list[float] = []
    for epoch in range(1 + request.num_blocks):  # the first block is not counted
        stream.begin(epoch)
        count = min(most, blocks_of(step(2) / 2, request))
        fed.append(fit_seconds(model, dataset, count))
        resident.append(step(count) / count)
    return {
        "fed_seconds": fed[1:],
        "resident_seconds": resident[1:],
        # of the time of a step that the pipeline feeds
        "share_beside_step": 1 - statistics.median(resident[1:]) / statistics.median(fed[1:]),
    }


def generated_stream(recipe: "Recipe", store: str, num_samples: int) -> "TrainingStream":
    """Returns the recipe's stream over an epoch of samples that repeat the images of a store."""
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.stores.opening import open_store
    from keras_imnet64.training.data import Data, make_stream

    images = select(open_store(store, in_memory="never"))
    moments = images.moments()
    positions = np.resize(np.arange(len(images)), num_samples)
    train = replace(images, positions=positions)
    data = Data(
        train,
        images,
        images,
        recipe.image_size,
        None,
        moments.mean_image,
        moments.channel_mean,
        moments.channel_std,
    )
    return make_stream(recipe, data)


def fit_seconds(model: "keras.Model", dataset: "Tensor", count: int) -> float:
    """Returns the time per step of the second half of 2 * count; Keras waits at the end of each."""
    import keras

    from keras_imnet64.models.keras_private import CallbacksBesideSteps  # as `fit` has them

    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    callbacks = CallbacksBesideSteps([clock], add_history=True, model=model, epochs=2, steps=count)
    model.fit(dataset, steps_per_epoch=count, epochs=2, callbacks=callbacks, shuffle=False)
    return (ends[1] - ends[0]) / count


def write_images(folder: str, image_size: int, count: int) -> None:
    """Writes a store of generated images, which `generated_stream` reads."""
    from keras_imnet64.data.stores.packing import write_store

    rng = np.random.default_rng(0)
    batches: Sequence[tuple[np.ndarray, np.ndarray]]
    batches = [
        (
            rng.integers(0, 256, (count, image_size, image_size, 3), "uint8"),
            rng.integers(0, 1000, count),
        )
    ]
    write_store(
        folder,
        batches,
        dataset="drawn",
        split="train",
        count=count,
        image_size=image_size,
        wnids=[f"n{label:08}" for label in range(1000)],
        class_names=[f"class {label}" for label in range(1000)],
        source="random numbers",
        verified=False,
    )


if __name__ == "__main__":
    main()
