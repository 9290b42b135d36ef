"""Measures a recipe under one backend and dtype, in a process of its own, as its parent asks.

The first line of standard input is the request. When the first step is done, the worker prints one
line of JSON, then one for each further line that it reads:

    forward N, step N, input N, both N    {"seconds": of N batches}, after N that are not counted
    memory                                {"peak_mb": of the step, or null where it is not counted}
    quit                                  nothing; the worker ends, as at the end of its input

A mistake or failure ends the worker with a sentence on standard error and its exit status.
`benchmarks/torch_peer.py` answers the same lines, and `rounds` asks them.
"""

import json
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_imnet64.backend.devices import choose_backend, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.bench.epochs import seconds_between_ends
from keras_imnet64.bench.memory import NUM_STEPS, StepMemory
from keras_imnet64.bench.stand_in import random_data, stream_on
from keras_imnet64.bench.worker_request import Request
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.types import JsonObject, Logs
from keras_imnet64.core.validation import parse_record
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.recipe.loading import check_recipe, parse_toml
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.memory import is_out_of_memory
from keras_imnet64.training.setup import check_setup, setup_on

MIN_SECONDS = 0.3  # of reading, and of the steps whose memory is measured: some take a millisecond


class Worker:
    """The compiled model of a recipe, the stream of its images, and a batch of them in memory.

    Each count of steps is one of updates: an accumulated batch takes several of Keras' steps.
    """

    def __init__(self, request: Request) -> None:
        recipe = at_full_size(check_recipe(parse_toml(request.recipe)))
        self.devices = take_devices(request.devices)
        check_setup(recipe, self.devices)
        if request.has_images:
            data = load_data(recipe, request.data_dir, request.cache_dir)
            stream = make_stream(recipe, data)
        else:
            data = random_data(recipe)
            stream = stream_on(data, recipe)
        self.num_parts = recipe.train.accumulate_steps
        self.stream, self.batch_size = stream, recipe.data.batch_size
        self.resident = tf.data.Dataset.from_tensors(stream.batch(epoch=0, step=0)).repeat()
        with StepMemory(self.devices) as self.memory, self.devices.scope():
            setup = setup_on(data, stream, recipe, self.devices, load_initial_weights=False)
            self.model = setup.model
            begin = time.perf_counter()
            self._fit(self.resident, 1, epochs=1)
            self.compile_seconds = time.perf_counter() - begin
            while time.perf_counter() - begin < MIN_SECONDS + self.compile_seconds:
                self._fit(self.resident, NUM_STEPS, epochs=1)  # memory is looked at now and then
        self.tasks: dict[str, Callable[[int], float]] = {
            "forward": self.forward,
            "step": lambda count: self._fit(self.resident, count)[-1],
        }
        if request.has_images:
            self.tasks["input"] = self.input
            self.tasks["both"] = lambda count: self._fit(stream.dataset().repeat(), count)[-1]

    def facts(self) -> JsonObject:
        """Returns what the worker prints when it is ready."""
        return {
            "devices": list(self.devices.names),
            "compile_seconds": self.compile_seconds,
            "tasks": list(self.tasks),
        }

    def reply(self, line: str) -> JsonObject:
        """Returns the answer to a line such as "step 5".

        Raises:
            ImageFailed: an image is gone, or has changed since it was indexed.
        """
        task, _, count = line.partition(" ")
        if task == "memory":
            return {"peak_mb": self.memory.step_megabytes}
        with self.devices.scope(), as_run_failed(self.stream.selection.store):
            return {"seconds": self.tasks[task](int(count))}

    def _fit(self, batches: tf.data.Dataset, num_updates: int, epochs: int = 2) -> list[float]:
        """Trains for epochs of so many updates, and returns the seconds between their ends."""
        return seconds_between_ends(self.model, batches, num_updates * self.num_parts, epochs)

    def forward(self, count: int) -> float:
        """Returns the seconds of `count` batches of logits in inference."""
        clock = ForwardClock(count * self.num_parts)
        images = self.resident.map(lambda images, labels: images)
        self.model.predict(images, steps=2 * clock.count, callbacks=[clock], verbose=0)
        return clock.ends[1] - clock.ends[0]

    def input(self, count: int) -> float:
        """Returns the seconds in which the pipeline alone makes `count` batches."""
        batches = iter(self.stream.dataset().repeat())
        for _ in range(count * self.num_parts):
            next(batches)
        num_made, begin = 0, time.perf_counter()
        while num_made < count or time.perf_counter() - begin < MIN_SECONDS:
            for _ in range(self.num_parts):
                next(batches)
            num_made += 1
        return (time.perf_counter() - begin) / num_made * count


def at_full_size(recipe: Recipe) -> Recipe:
    """Returns the recipe without `train.sizes`: steps are measured at the size of the model."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"sizes": None})})


class ForwardClock(keras.callbacks.Callback):
    """Notes when the first half and the second half of 2 * count batches have been computed."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.ends: list[float] = []

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if batch + 1 in (self.count, 2 * self.count):
            np.asarray((logs or {})["outputs"])  # waits for the device
            self.ends.append(time.perf_counter())


def main() -> None:
    """Answers the lines of standard input until it ends."""
    request = parse_record(Request, sys.stdin.readline())
    with keras_defaults():
        worker = Worker(request)
        print(json.dumps(worker.facts()), flush=True)
        for line in sys.stdin:
            if line.strip() == "quit":
                break
            print(json.dumps(worker.reply(line.strip())), flush=True)


def run() -> int:
    """Runs `main` and returns the exit status; prints the sentence of a mistake or failure."""
    silence_libraries()
    try:
        choose_backend()
        main()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    except Exception as error:  # each backend raises its own type when memory runs out
        if not is_out_of_memory(error):
            raise
        print("Error: out of memory: give a smaller --batch-size", file=sys.stderr)
        return RunFailed.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(run())
