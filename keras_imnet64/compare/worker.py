"""Trains one side of a comparison, in a process of its own, as the parent asks.

The request is one JSON object on standard input, see `request`. The process writes the files that
it names, each whole or not at all, and prints an `Outcome` at its end: what an interrupted process
has finished is not done again.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import psutil
from keras import ops

from keras_imnet64.backend.devices import Devices, choose_backend, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.compare import probe
from keras_imnet64.compare.records import (
    NUM_RUNS,
    Arrays,
    LayerCall,
    StepFacts,
    StepRecord,
    Trajectory,
    Yardstick,
    digest,
    read_arrays,
    sample,
    scale_of,
    versions,
    write_arrays,
    write_step,
)
from keras_imnet64.compare.request import Outcome, Request, StepTask
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import write_json
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.types import Logs
from keras_imnet64.core.validation import parse_record, read_record, to_json
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.models.keras_private import CallbacksBesideSteps
from keras_imnet64.models.paths import by_path
from keras_imnet64.recipe.loading import check_recipe, parse_toml
from keras_imnet64.runs import Run, lock
from keras_imnet64.training.memory import PeakMemory, is_out_of_memory
from keras_imnet64.training.setup import build_setup
from keras_imnet64.training.state import (
    Variables,
    assign_variables,
    read_variables,
    variables_by_path,
)

BFLOAT16_BIT = 2.0**-8  # of a number of 8 binary digits


class Watch(keras.callbacks.Callback):
    """Notes the loss, the rate and the seconds of each step; Keras' epochs have one step each."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.seconds: list[float] = []
        self.first_end: float | None = None  # time.time()
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.rates.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._begun)
        self.first_end = self.first_end or time.time()
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise RunFailed(f"the loss is not finite at step {len(self.losses) + 1}")
        self.losses.append(loss)


class Disturbance(keras.callbacks.Callback):
    """Moves the weights at random while a step computes its gradients, and then back.

    What the step adds to a weight is kept.

    Args:
        weights: those of the network, floats, by path.
        size: the distance of a moved weight, in units of the weight.
        number: determines the directions.
    """

    def __init__(self, weights: Variables, devices: Devices, size: float, number: int) -> None:
        super().__init__()
        self._weights, self._devices, self._size = weights, devices, size
        self._rng = np.random.Generator(np.random.Philox(number))
        self._before: Arrays = {}
        self._moved: Arrays = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._before = read_variables(self.model, self._weights)
        self._moved = {name: self._away(array) for name, array in self._before.items()}
        self._assign(self._moved)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        after = read_variables(self.model, self._weights)
        self._assign(
            {name: self._before[name] + (after[name] - self._moved[name]) for name in after}
        )

    def _assign(self, arrays: Arrays) -> None:
        with self._devices.scope():
            assign_variables(self._weights, arrays, "a disturbed step")

    def _away(self, array: np.ndarray) -> np.ndarray:
        is_up = self._rng.integers(2, size=array.shape, dtype=bool)
        return array * np.where(is_up, 1 + self._size, 1 - self._size).astype(array.dtype)


class SideRun:
    """The compiled model of a side and the stream of its batches."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.recipe = recipe = check_recipe(parse_toml(request.recipe))
        self.devices = take_devices(request.devices, request.virtual_devices)
        self.setup = build_setup(
            recipe, self.devices, data_dir=request.data_dir, cache_dir=request.cache_dir
        )
        self.model, self.stream = self.setup.model, self.setup.stream
        num_steps = self.stream.steps_per_epoch * recipe.train.epochs
        if request.num_steps > num_steps:
            raise UserError(
                f"--steps must be at most {num_steps}, the steps of the recipe; received "
                f"{request.num_steps}"
            )
        self.variables = variables_by_path(self.model, [])  # metrics begin anew at each step
        self._size: int | None = None  # of the images of the last step
        self._readers: dict[int, probe.Reader] = {}  # by the size of the images

    # ------------------------------------------------------------------------------------- states

    def read(self) -> Arrays:
        """Returns copies of all variables."""
        return read_variables(self.model, self.variables)

    def assign(self, arrays: Arrays) -> None:
        """Sets all variables."""
        with self.devices.scope():
            assign_variables(self.variables, arrays, "the start of the comparison")

    def start(self) -> tuple[Arrays, float, str | None]:
        """Sets all variables to the shared start, and returns it.

        Call it before any step: what this side has is then its own start.

        Returns:
            (the start, how far this side's own is from it, where); see `Trajectory`.
        """
        path, own = Path(self.request.start), self.read()
        if not path.exists():
            write_arrays(path, own)
        shared = read_arrays(path)
        self.assign(shared)  # refuses those of another network
        size, where = 0.0, None
        for name in by_path(self.model):
            ours, theirs = own[f"model/{name}"], shared[f"model/{name}"]
            if ours.size and np.issubdtype(ours.dtype, np.floating):
                scale = scale_of([theirs])
                distance = scale_of([ours - theirs]) / (scale or 1.0)
                if distance > size:
                    size, where = distance, name
        return shared, size, where

    # -------------------------------------------------------------------------------------- steps

    def train(self, end: int, *callbacks: keras.callbacks.Callback) -> None:
        """Trains from the first step to before another, both counted over all epochs.

        Raises:
            ImageFailed: an image is gone, or has changed since it was indexed.
        """
        step = 0
        while step < end:
            epoch, first = self.place_of(step)
            count = min(end - step, self.stream.steps_per_epoch - first)
            size = self._prepare_size(epoch)
            self.stream.begin(epoch, first)
            with self.devices.scope(), as_run_failed(self.stream.selection.store):
                self.model.fit(
                    self.stream.dataset(size),
                    steps_per_epoch=1,  # an epoch of Keras is a step: its loss is that of the step
                    epochs=count,
                    callbacks=CallbacksBesideSteps(
                        callbacks, add_history=True, model=self.model, epochs=count, verbose=0
                    ),
                    shuffle=False,
                    verbose=0,
                )
            step += count

    def place_of(self, step: int) -> tuple[int, int]:
        """Returns (epoch, step of the epoch), both from 0."""
        return divmod(step, self.stream.steps_per_epoch)

    def _prepare_size(self, epoch: int) -> int:
        """Returns the size of an epoch's images; the step is compiled anew for each."""
        size = self.stream.size_of_epoch(epoch)
        if size != self._size:
            self.model.train_function, self._size = None, size
        return size

    # -------------------------------------------------------------------------------------- tasks

    def trajectory(self) -> Trajectory:
        """Trains the steps from the shared start."""
        _, distance, where = self.start()
        watch = Watch()
        with PeakMemory(self.devices) as memory:
            try:
                self.train(self.request.num_steps, watch)
            except Exception as error:  # Keras and PyTorch raise what they like
                if self.devices.backend != "torch" or not is_unsupported(error):
                    raise
                return self._untrained(error)
        places = map(self.place_of, range(self.request.num_steps))
        assert watch.first_end is not None
        return Trajectory(
            devices=self.devices.names,
            versions=versions({self.devices.backend}),
            losses=tuple(watch.losses),
            rates=tuple(watch.rates),
            digests=tuple(digest(*self.stream.batch(*place)) for place in places),
            seconds=tuple(watch.seconds),
            seconds_to_first_step=watch.first_end - psutil.Process().create_time(),
            peak_memory_mb=memory.megabytes,
            start_difference=distance,
            start_variable=where,
        )

    def _untrained(self, error: Exception) -> Trajectory:
        """Returns the trajectory of a side whose backend does not train the recipe."""
        return Trajectory(
            devices=self.devices.names,
            versions=versions({self.devices.backend}),
            losses=(),
            rates=(),
            digests=(),
            seconds=(),
            seconds_to_first_step=0.0,
            untrained=reason(error),
        )

    def yardstick(self) -> Yardstick:
        """Trains the steps from starts that are one last bit apart from the shared one."""
        start, *_ = self.start()
        runs = []
        for number in range(1, NUM_RUNS):
            self.assign(one_bit_apart(start, number))
            watch = Watch()
            self.train(self.request.num_steps, watch)
            runs.append(tuple(watch.losses))
        return Yardstick(tuple(runs))

    def disturbed(self, size: float) -> Yardstick:
        """Trains the steps from the shared start, each of them disturbed."""
        weights = {path: v for path, v in self.variables.items() if is_weight(path, v)}
        runs = []
        for number in range(1, NUM_RUNS):
            self.start()
            watch, disturbance = Watch(), Disturbance(weights, self.devices, size, number)
            self.train(self.request.num_steps, watch, disturbance)
            runs.append(tuple(watch.losses))
        return Yardstick(tuple(runs), size)

    def state_before(self, task: StepTask) -> Arrays:
        """Returns all variables before a step: those of the first side that needed them."""
        path = Path(task.state)
        if not path.exists():
            self.start()
            self.train(task.step)
            write_arrays(path, self.read())
        return read_arrays(path)

    def record(
        self, task: StepTask, *, near: str | None = None, is_forward_only: bool = False
    ) -> StepRecord:
        """Computes a step from a given state, tensor by tensor.

        Args:
            near: the dtype by whose last bit the state is moved; None for the state itself.
            is_forward_only: whether only the outputs of layers are computed.
        """
        state = self.state_before(task)
        if near:
            state = one_bit_apart(state, 1, near)
        epoch, first = self.place_of(task.step)
        batch, size = self.stream.batch(epoch, first), self._prepare_size(epoch)
        network = self.setup.smaller.get(size, self.setup.network)
        self.assign(state)
        found = probe.activations(self.model, network, batch[0], self.devices)
        calls = tuple(_once(probe.network_calls(network)))
        if is_forward_only:
            facts = StepFacts(task.step, None, None, calls, {})
            return StepRecord(facts, *batch, found.outputs, {}, {}, {})
        self.assign(state)
        own = self._gradients(network, size, batch)
        after = self.read()
        kinked = {f"{index:05d}": array for index, array in enumerate(found.kinked)}
        held = _shared(task.kinks, kinked)
        self.assign(state)
        at_kinks = self._gradients(network, size, batch, list(held.values())) if held else None
        shared = _shared(task.gradients, own.arrays)
        self.assign(state)
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        with self.devices.scope():
            probe.apply_gradients(self.model, shared, self.devices)
        updated = self.read()
        trained = [variable.path for variable in self.model.trainable_variables]
        others = [name for name in by_path(self.model) if name not in set(trained)]
        return StepRecord(
            StepFacts(
                step=task.step,
                loss=own.loss,
                rate=rate,
                calls=calls,
                magnitudes={path: scale_of([state[f"model/{path}"]]) for path in trained},
            ),
            images=batch[0],
            labels=batch[1],
            activations=found.outputs,
            gradients=samples(own.arrays),
            held=samples(at_kinks.arrays) if at_kinks else {},
            statistics=samples(
                {
                    name: after[f"model/{name}"]
                    for name in others
                    if np.issubdtype(after[f"model/{name}"].dtype, np.floating)
                }
            ),
            updates=samples(
                {path: updated[f"model/{path}"] - state[f"model/{path}"] for path in trained}
            ),
        )

    def _gradients(
        self,
        network: keras.Model,
        size: int,
        batch: probe.Batch,
        held: Sequence[np.ndarray] = (),
    ) -> probe.Gradients:
        """Computes the gradients of a step, compiled once for images of each size."""
        with self.devices.scope():
            if size not in self._readers:
                self._readers[size] = probe.Reader(self.model, network)
            return self._readers[size].gradients(batch, held)


def _shared(file: str, own: Arrays) -> Arrays:
    """Returns the arrays of the first side, which are in a file once that side has written it."""
    path = Path(file)
    if not path.exists():
        write_arrays(path, own)
    return read_arrays(path)


def samples(arrays: Arrays) -> Arrays:
    """Returns numbers of each array, see `sample`."""
    return {name: sample(array, name) for name, array in arrays.items()}


def _once(calls: list[LayerCall]) -> list[LayerCall]:
    """Returns the calls, of which those that repeat a layer say so in their names."""
    seen: dict[str, int] = {}
    named = []
    for call in calls:
        seen[call.name] = seen.get(call.name, 0) + 1
        number = seen[call.name]
        name = call.name if number == 1 else f"{call.name} (call {number})"
        named.append(LayerCall(name, call.kind, call.variables))
    return named


def is_unsupported(error: Exception) -> bool:
    """Returns whether an error in training may say that a backend does not train the recipe."""
    return not isinstance(error, UserError | OSError) and not is_out_of_memory(error)


def one_bit_apart(start: Arrays, number: int, dtype: str = "float32") -> Arrays:
    """Returns a start whose float weights are each moved to a neighbouring float, up or down.

    Args:
        number: determines the directions. Zeros stay: their neighbours are no normal numbers.
        dtype: "float32", or "mixed_bfloat16" to move them by a last bit of bfloat16.
    """
    rng = np.random.Generator(np.random.Philox(number))

    def move(array: np.ndarray) -> np.ndarray:
        is_up = rng.integers(2, size=array.shape, dtype=bool)
        if dtype == "mixed_bfloat16":
            return array * np.where(is_up, 1 + BFLOAT16_BIT, 1 - BFLOAT16_BIT).astype(array.dtype)
        moved = np.nextafter(array, np.where(is_up, np.inf, -np.inf).astype(array.dtype))
        return np.where(array == 0, array, moved)

    return {name: move(array) if is_weight(name, array) else array for name, array in start.items()}


def is_weight(name: str, array: np.ndarray | keras.Variable) -> bool:
    """Whether a variable is one of the network whose values are floats."""
    return name.startswith("model/") and keras.backend.is_float_dtype(array.dtype)


# ------------------------------------------------------------------------------------- the process


def work(request: Request) -> None:
    """Does what a request asks, as far as its files do not exist.

    Raises:
        UserError: another process does it; that of a killed comparison may still be there.
    """
    with lock(Run(Path(request.start).parent)):
        _work(request)


def _work(request: Request) -> None:
    side = SideRun(request)
    if not Path(request.trajectory).exists():
        write_json(request.trajectory, to_json(side.trajectory()))
    is_forward_only = read_record(Trajectory, request.trajectory).untrained is not None
    if request.yardstick and is_forward_only:
        return  # the parent refuses it
    if request.yardstick and not Path(request.yardstick).exists():
        write_json(request.yardstick, to_json(side.yardstick()))
    if request.disturbed and not Path(request.disturbed.record).exists():
        write_json(request.disturbed.record, to_json(side.disturbed(request.disturbed.disturbance)))
    for task in request.steps:
        if not Path(task.record).exists():
            record = side.record(task, is_forward_only=is_forward_only)
            write_step(Path(task.record), record)
        for near in task.near:
            if not Path(near.record).exists():
                write_step(Path(near.record), side.record(task, near=near.dtype))


def main() -> Outcome:
    """Reads the request from standard input and does it."""
    try:
        choose_backend()
        with keras_defaults():
            work(parse_record(Request, sys.stdin.read()))
    except UserError as error:
        return Outcome(str(error), isinstance(error, RunFailed))
    except OSError as error:
        return Outcome(f"{error.filename or 'a file'}: {reason(error)}", True)
    except Exception as error:  # each backend raises its own type when memory runs out
        if not is_out_of_memory(error):
            raise
        return Outcome("out of memory: set a smaller data.batch_size", True)
    return Outcome()


if __name__ == "__main__":
    silence_libraries()
    print(json.dumps(asdict(main())))
