"""Starts a worker process for each side of a comparison, and measures them in alternating rounds.

Only one worker computes at a time: they start one after the other, and each block of steps is asked
of one worker after the other, in the reverse order in every second round, so that what slows the
machine down for a while slows all sides down alike. `worker` has the lines that they answer.
"""

import json
import math
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import EXIT_USER_ERROR, RunFailed, UserError
from keras_imnet64.core.processes import environment_with_package, failure_reason
from keras_imnet64.core.types import JsonObject

TASKS = ("forward", "step", "input", "both")
MIN_BATCHES = 3  # of a block: beginning and ending an epoch takes some milliseconds too


@dataclass(frozen=True)
class Side:
    """One side of a comparison: how to start its worker.

    Attributes:
        name: such as "jax" or "torch compile".
        request: what the worker reads first from its standard input; None for nothing.
        environment: variables beside those of this process.
        warms_up: whether the worker itself makes steps before those that it times.
    """

    name: str
    dtype: str
    command: Sequence[str]
    request: JsonObject | None = None
    environment: dict[str, str] = field(default_factory=dict)
    is_peer: bool = False
    warms_up: bool = True

    @property
    def label(self) -> str:
        return f"{self.name} {self.dtype}"


@dataclass(frozen=True)
class Measured:
    """What a worker has answered.

    Attributes:
        facts: the line that it printed when it was ready.
        seconds: {task: seconds of one batch, in each round}.
    """

    side: Side
    facts: JsonObject
    memory_mb: float | None
    seconds: dict[str, list[float]]


class Conversation:
    """A running worker. Leaving the context kills it and all that it has started.

    Raises:
        UserError, RunFailed: the worker has ended; its last words say why.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the context ends)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            side.command,
            env=environment_with_package(os.environ | side.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            start_new_session=True,  # a signal from the terminal reaches this process alone
        )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        self._reader = threading.Thread(target=self._read, daemon=True)
        try:
            self._reader.start()
        except BaseException:  # Ctrl-C, before there is a context to be left
            self.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._process.wait()
        self._reader.join()
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._errors.close()

    def kill(self) -> None:
        """Kills the worker and all that it has started; another thread may be waiting for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def say(self, line: str) -> None:
        """Writes a line to the worker."""
        with suppress(BrokenPipeError):  # it has ended, as `answer` will find
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def answer(self) -> JsonObject:
        """Returns the next JSON object that the worker prints; other lines are of libraries."""
        while (line := self._lines.get()) is not None:
            with suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
        raise self._failure()

    def ask(self, line: str) -> JsonObject:
        self.say(line)
        return self.answer()

    def seconds(self, task: str, num_batches: int) -> float:
        """Returns the seconds of one of so many batches."""
        line = f"{task} {num_batches}"
        if not self.side.warms_up:
            self.ask(line)
        answer = self.ask(line)
        if "seconds" not in answer:
            raise RunFailed(f"{self.side.label} has not measured {task}: {answer.get('error')}")
        return float(answer["seconds"]) / num_batches

    def _failure(self) -> UserError:
        """Returns the error of a worker that has ended."""
        status = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace")
        why = failure_reason(status, last_words) or "it ended without an answer"
        if status == EXIT_USER_ERROR:
            return UserError(why)
        return RunFailed(f"{self.side.label} failed: {why}")


def measure(sides: Sequence[Side], num_rounds: int, block_seconds: float) -> list[Measured]:
    """Starts the workers, measures them in alternating rounds, and ends them.

    Args:
        block_seconds: that a block takes, about; it has three batches or more.
    """
    with ExitStack() as running:
        workers, facts, memory, blocks = [], [], [], []
        for side in sides:
            with Activity(f"starting {side.label}", at_once=True):
                worker = running.enter_context(Conversation(side))
                if side.request is not None:
                    worker.say(json.dumps(side.request))
                facts.append(worker.answer())
                worker.ask(f"step {MIN_BATCHES}")
                memory.append(worker.ask("memory").get("peak_mb"))  # before forward passes
                workers.append(worker)
                tasks = tasks_of(facts[-1])
                blocks.append({task: num_batches(worker, task, block_seconds) for task in tasks})
        seconds = alternate(workers, blocks, num_rounds)
    return [Measured(*each) for each in zip(sides, facts, memory, seconds, strict=True)]


def tasks_of(facts: JsonObject) -> list[str]:
    """Returns the tasks that a worker can do, in the order of `TASKS`."""
    return [task for task in TASKS if task in facts.get("tasks", ("forward", "step"))]


def num_batches(worker: Conversation, task: str, block_seconds: float) -> int:
    """Returns how many batches make a block of a task; the task has been compiled then.

    The faster of two tries counts, as the first may have filled caches.
    """
    seconds = min(worker.seconds(task, MIN_BATCHES) for _ in range(2))
    return max(MIN_BATCHES, math.ceil(block_seconds / max(seconds, 1e-6)))


def alternate(
    workers: Sequence[Conversation], blocks: Sequence[dict[str, int]], num_rounds: int
) -> list[dict[str, list[float]]]:
    """Returns, for each worker, {task: seconds of a batch in each round}.

    Args:
        blocks: for each worker {task: batches of a block}.
    """
    seconds: list[dict[str, list[float]]] = [{task: [] for task in each} for each in blocks]
    for number in range(num_rounds):
        with Activity(f"measuring round {number + 1} of {num_rounds}", at_once=True):
            order = list(enumerate(workers))[:: -1 if number % 2 else 1]
            for task in TASKS:
                for index, worker in order:
                    if task in blocks[index]:
                        of_batch = worker.seconds(task, blocks[index][task])
                        seconds[index][task].append(of_batch)
    return seconds
