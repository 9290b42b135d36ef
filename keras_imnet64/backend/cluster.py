"""The processes that train one run together: they join, agree, wait for each other, and leave.

JAX connects the processes and sums their gradients; here they exchange what a run must agree on.
Process 0 is the writer: it alone writes files, and the others learn from it what it decides. All
processes make the same calls in the same order. A process that fails says so to the others, and
each ends with that sentence; a process that is lost without a word is noticed by JAX.
"""

import atexit
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from keras_imnet64.backend.jax_private import (
    SharedTexts,
    call_before_abort,
    connect,
    coordinator_of_launcher,
)
from keras_imnet64.backend.launchers import Place
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import announce, say_nothing
from keras_imnet64.core.errors import (
    EXIT_RUN_FAILED,
    EXIT_STOPPED_AT_ONCE,
    EXIT_USER_ERROR,
    MAX_MESSAGE_CHARACTERS,
    RunFailed,
    Stopped,
    UserError,
    reason,
)
from keras_imnet64.core.library_logs import hide_standard_error, keep_standard_output
from keras_imnet64.core.parts import Part
from keras_imnet64.core.types import Json

JOIN_SECONDS = 30  # a wrong set of processes is to be noticed within a minute of the command
SHARED_SECONDS = 20  # until a file of another machine must be seen; caches of NFS keep 3 to 60 s
MIN_JOIN_SECONDS = 10
POLL_SECONDS = 0.5
GRACE_SECONDS = 5  # for a main thread to notice by itself that another process has failed
GONE_SECONDS = 15  # that process 0, through which the others hear of a failure, waits for them
LEAVE_SECONDS = 600
QUIET_SECONDS = 2.0  # of waiting, before a line says so
LOST = re.compile(r"gloo|nccl|connection|socket|coordination|heartbeat|unavailable|barrier", re.I)
REPEATED = re.compile(r"([^:]+: )\1+")  # as messages of JAX have it
RESUME = "the same command on every machine resumes the run from its newest checkpoint"
Result = TypeVar("Result")


class Cluster:
    """A process that trains alone, as most do: it is the writer and waits for nobody."""

    process_id = 0
    num_processes = 1

    @property
    def is_writer(self) -> bool:
        return self.process_id == 0

    @property
    def part(self) -> Part:
        """The part of each batch that this process reads."""
        return Part(self.process_id, self.num_processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the other processes, in order after success, else with a word to them."""

    def gather(self, value: Json) -> list[Json]:
        """Returns the values of all processes, in the order of their numbers; waits for them."""
        return [value]

    def agree(self, facts: Mapping[str, str], remedy: str) -> None:
        """Raises a UserError on all processes if one of them has another value of a fact.

        Args:
            facts: by name, such as "version of jax".
            remedy: the end of the sentence.
        """

    def from_writer(self, function: Callable[[], Json]) -> Json:
        """Returns what a function returns on the writer, the only process that calls it.

        Raises:
            UserError, RunFailed: those of the function, on all processes.
        """
        return function()

    def in_turns(self, doing: str, function: Callable[[], Result]) -> Result:
        """Calls a function on the writer, then once on each other machine, then on the rest.

        Args:
            doing: such as "opening shapes", for those that wait.
        """
        return function()

    def wait_for_file(self, path: Path) -> None:
        """Waits until this machine sees a file that the writer has written.

        Raises:
            UserError: it does not, so the folder is not shared.
        """

    def check_shared(self, folder: Path) -> None:
        """Raises a UserError on all processes if one does not see what the writer writes."""

    def stop_agreement(self) -> "StopAgreement | None":
        """Returns the means to stop all processes after the same step; None if alone."""
        return None


ALONE = Cluster()


@dataclass(frozen=True)
class Failure:
    """Why a process ended.

    Attributes:
        process: its number; None if that is not known.
        message: what it said about itself, or what was noticed about it.
    """

    process: int | None
    host: str
    status: int
    message: str

    def error(self) -> UserError:
        """Returns the exception with which the other processes end."""
        if self.process is None:
            return RunFailed(self.message)
        kind = UserError if self.status == EXIT_USER_ERROR else RunFailed
        return kind(f"process {self.process} on {self.host}: {self.message}")


class JoinedCluster(Cluster):
    """One of several processes that `join` has connected.

    Attributes:
        failure: that of another process, once it is known.
    """

    def __init__(self, place: Place) -> None:
        self.process_id, self.num_processes = place.process_id, place.num_processes
        self.host = socket.gethostname()
        self.failure: Failure | None = None
        self._leaving = threading.Event()
        self._numbers = count()  # of the exchanges, which all processes make in one order
        self._stop: StopAgreement | None = None
        self._texts: SharedTexts | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="cluster")

    @property
    def texts(self) -> SharedTexts:
        assert self._texts is not None  # `connect` has returned
        return self._texts

    def give_up(self) -> None:
        """Ignores the others from now on."""
        self._leaving.set()

    def connect(
        self, place: Place, address: str, seconds: int, refusal: Callable[[], UserError]
    ) -> None:
        """Connects to the others.

        Args:
            address: of process 0.
            refusal: returns the error for a failure, where JAX aborts instead of raising one.
        """

        with hide_standard_error() as show_standard_error:  # JAX aborts with a trace of the stack

            def refuse() -> None:
                if self._texts is None:
                    show_standard_error()
                    announce(f"Error: {refusal()}")
                    _end_at_once(EXIT_USER_ERROR)
                self.on_abort()

            call_before_abort(refuse)
            connect(place, address, seconds)
            self._texts = SharedTexts()
        self._watcher.start()

    # ---------------------------------------------------------------------------------- agreement

    def gather(self, value: Json) -> list[Json]:
        number = next(self._numbers)
        self.texts.write(f"values/{number}/{self.process_id}", json.dumps(value))
        return [self._read(f"values/{number}/{i}", i) for i in range(self.num_processes)]

    def agree(self, facts: Mapping[str, str], remedy: str) -> None:
        everyone = self.gather({"host": self.host, "facts": dict(facts)})
        first, *others = everyone
        for name, value in first["facts"].items():
            for number, other in enumerate(others, start=1):
                if other["facts"].get(name) != value:
                    raise UserError(
                        f"the processes of a run must have the same {name}; received {value} in "
                        f"process 0 on {first['host']} and {other['facts'].get(name)} in process "
                        f"{number} on {other['host']}: {remedy}"
                    )

    def from_writer(self, function: Callable[[], Json]) -> Json:
        name = f"writer/{next(self._numbers)}"
        if not self.is_writer:
            answer = self._read(name, 0)
            if "error" in answer:
                kind = RunFailed if answer["status"] == EXIT_RUN_FAILED else UserError
                raise kind(answer["error"])
            return answer["result"]
        try:
            result = function()
        except UserError as error:
            answer = {"error": str(error), "status": error.exit_status}
            self.texts.write(name, json.dumps(answer))
            raise
        self.texts.write(name, json.dumps({"result": result}))
        return result

    def in_turns(self, doing: str, function: Callable[[], Result]) -> Result:
        hosts = self.gather(self.host)
        turns = [min(i, 1) if hosts.index(host) == i else 2 for i, host in enumerate(hosts)]
        name = f"turns/{next(self._numbers)}"
        for number, turn in enumerate(turns):
            if turn < turns[self.process_id]:
                self._read(f"{name}/{number}", number, f"which is {doing}")
        result = function()
        self.texts.write(f"{name}/{self.process_id}", "true")
        return result

    def _read(self, name: str, process: int, doing: str = "") -> Json:
        """Waits for a value of a process; raises an error if another process fails meanwhile."""
        begun, is_said = time.monotonic(), not doing
        while True:
            self.raise_failure()
            text = self.texts.read(name, POLL_SECONDS)
            if text is not None:
                return json.loads(text)
            if not is_said and time.monotonic() - begun > QUIET_SECONDS:
                announce(f"process {self.process_id} waits for process {process}, {doing}")
                is_said = True

    # ------------------------------------------------------------------------------- shared folder

    def wait_for_file(self, path: Path) -> None:
        if not self.is_writer and not self._sees(path):
            raise UserError(
                f"process {self.process_id} on {self.host} does not see {path}, which process 0 "
                "has written: name a folder that all machines share with --out"
            )

    def check_shared(self, folder: Path) -> None:
        """Writes a file with a name of its own, for which the other processes look."""

        def write() -> str:
            token = f".shared.writing-{os.getpid()}-{time.time_ns()}"
            (folder / token).touch()
            return token

        file = folder / self.from_writer(write)
        answers = self.gather({"host": self.host, "sees": self._sees(file)})
        if self.is_writer:
            file.unlink(missing_ok=True)
        for number, answer in enumerate(answers):
            if not answer["sees"]:
                raise UserError(
                    f"the run folder {folder} is not shared: process {number} on "
                    f"{answer['host']} does not see there what process 0 on {answers[0]['host']} "
                    "has written; name a folder that all machines share with --out"
                )

    def _sees(self, path: Path) -> bool:
        """Returns whether a file appears within SHARED_SECONDS."""
        end = time.monotonic() + SHARED_SECONDS
        while not path.exists():
            self.raise_failure()
            if time.monotonic() > end:
                return False
            with suppress(OSError):
                os.listdir(path.parent)  # makes NFS look again
            time.sleep(POLL_SECONDS)
        return True

    # ------------------------------------------------------------------------- the ends of others

    def stop_agreement(self) -> "StopAgreement":
        if self._stop is None:
            self._stop = StopAgreement(self)
        return self._stop

    def raise_failure(self) -> None:
        """Raises the error of another process, if it has failed."""
        if self.failure is not None:
            raise self.failure.error()

    def _watch(self) -> None:
        """Reads the news of the others in a thread, and ends a process that hangs after a failure.

        News are "failed-<number>" with a failure, "gone-<number>" of a process that has heard of
        it, and "stop" once any of them was asked to stop.
        """
        while not self._leaving.wait(POLL_SECONDS):
            try:
                news = self.look_for_failure()
                if self.failure is None and self._stop is not None:
                    self._stop.look(is_asked="stop" in news)
            except Exception as error:  # of JAX, as process 0 is gone; or a failure of another
                self.failure = self.failure or self.loss(error)
            if self.failure is not None:
                self._end_unless_leaving(self.failure)

    def look_for_failure(self) -> dict[str, str]:
        """Notes the failure of another process, if there is one; returns all news."""
        news = self.texts.folder("news")
        for name, text in news.items():
            word, _, process = name.partition("-")
            is_other = word == "failed" and int(process) != self.process_id
            if is_other and self.failure is None:
                self.failure = Failure(int(process), **json.loads(text))
        return news

    def on_abort(self) -> None:
        """Ends this process with a sentence where JAX would abort it, as another one is lost.

        JAX calls it in a thread of its own. If the main thread has noticed too, it ends by itself.
        """
        if threading.current_thread() is threading.main_thread():
            return  # another reason to abort
        self.failure = self.failure or self.loss("JAX ended this process")
        self._end_unless_leaving(self.failure)
        time.sleep(GONE_SECONDS)
        _end_at_once(EXIT_RUN_FAILED)

    def loss(self, why: object) -> Failure:
        """Describes the loss of another process, from what JAX says about it."""
        cause = reason(REPEATED.sub(r"\1", str(why)))
        message = f"another process of this run was lost ({cause}): {RESUME}"
        return Failure(None, "", EXIT_RUN_FAILED, message)

    def _end_unless_leaving(self, failure: Failure) -> None:
        """Ends this process if its main thread, which may wait for the lost one, does not."""
        if self._leaving.wait(GRACE_SECONDS):
            return
        error = failure.error()
        self._say_gone()
        announce(f"Error: {error}")
        _end_at_once(error.exit_status)

    @property
    def can_talk(self) -> bool:
        """Whether no process is lost; if process 0 is, a call of it may take minutes to fail."""
        return self.failure is None or self.failure.process is not None

    def _say_gone(self) -> None:
        if self.can_talk:
            with suppress(Exception):  # process 0 may be gone all the same
                self.texts.write(f"news/gone-{self.process_id}", "")

    # -------------------------------------------------------------------------------------- leaving

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves together with the others after success or a stop, else tells them the error.

        Raises:
            RunFailed: in place of an error of JAX that says that another process was lost.
        """
        if error is None or isinstance(error, Stopped):
            self._leave_together()
            return
        lost = self._find_loss(error)
        self._leaving.set()
        if lost is not None:
            error = lost
        status = self._status_of(error)
        self._tell(error, status)
        atexit.register(_end_at_once, status)  # JAX would wait for the others at the exit
        if lost is not None:
            raise lost

    def _leave_together(self) -> None:
        """Waits for all, then disconnects: a process that others still talk to must not end."""
        import jax

        try:
            self.texts.wait_for_all("leaving", LEAVE_SECONDS)
            self._leaving.set()
            self._watcher.join(GRACE_SECONDS)  # it must not talk to JAX meanwhile
            jax.distributed.shutdown()
        except jax.errors.JaxRuntimeError as error:
            self._leaving.set()
            atexit.register(_end_at_once, EXIT_RUN_FAILED)
            raise self.loss(error).error() from error

    def _find_loss(self, error: BaseException) -> UserError | None:
        """Returns the error to end with if this one is a consequence of another process's end."""
        import jax

        if isinstance(error, UserError):
            return None
        if self.failure is not None:
            return self.failure.error()
        if not isinstance(error, jax.errors.JaxRuntimeError) or not LOST.search(str(error)):
            return None
        end = time.monotonic() + GRACE_SECONDS
        while self.failure is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 5)  # `_watch` may find what the other process has said
        self.failure = self.failure or self.loss(error)
        return self.failure.error()

    def _status_of(self, error: BaseException) -> int:
        if isinstance(error, UserError):
            return error.exit_status
        return EXIT_STOPPED_AT_ONCE if isinstance(error, KeyboardInterrupt) else EXIT_RUN_FAILED

    def _tell(self, error: BaseException, status: int) -> None:
        """Tells the others; process 0, through which they hear it, waits until they have."""
        if not self.can_talk:
            return
        stopped = status == EXIT_STOPPED_AT_ONCE
        message = "it was stopped at once" if stopped else reason(error, MAX_MESSAGE_CHARACTERS)
        content = {"host": self.host, "status": status, "message": message}
        with suppress(Exception):  # nobody may be left to hear it
            if self.failure is None:
                self.texts.write(f"news/failed-{self.process_id}", json.dumps(content))
            self._say_gone()
            end = time.monotonic() + GONE_SECONDS
            while self.is_writer and time.monotonic() < end:
                gone = [name for name in self.texts.folder("news") if name.startswith("gone-")]
                if len(gone) == self.num_processes:
                    break
                time.sleep(POLL_SECONDS / 5)


def _end_at_once(status: int) -> None:
    """Ends the process at its exit without what JAX does there, which waits for lost processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class StopAgreement:
    """Agrees with the other processes on the step after which all of them stop.

    When a process is asked to stop, each writes how many steps it has begun; all stop at the step
    after the largest of these numbers. Meanwhile none begins a step: the thread of `_watch`
    exchanges the numbers, so that a main thread which waits for others delays nothing.

    Attributes:
        is_asked: whether this process was asked to stop.
    """

    def __init__(self, cluster: JoinedCluster) -> None:
        self.cluster = cluster
        self.is_asked = False
        self._lock = threading.Lock()
        self._num_begun = 0
        self._last: int | None = None

    def ask(self) -> None:
        """Asks all processes to stop; a signal handler may call it."""
        self.is_asked = True

    def is_last_step(self) -> bool:
        """Counts a step that begins; returns whether all processes stop after it."""
        with self._lock:
            self._num_begun += 1
            return self._last is not None and self._num_begun >= self._last

    def look(self, is_asked: bool) -> None:
        """Agrees on the last step if any process was asked to stop.

        Args:
            is_asked: whether another process was.
        """
        if self._last is not None or not (is_asked or self.is_asked):
            return
        texts = self.cluster.texts
        texts.write("news/stop", "")
        with self._lock:
            texts.write(f"begun/{self.cluster.process_id}", str(self._num_begun))
            begun = [self._begun(i) for i in range(self.cluster.num_processes)]
            self._last = max(begun) + 1

    def _begun(self, process: int) -> int:
        while True:
            self.cluster.look_for_failure()
            self.cluster.raise_failure()
            text = self.cluster.texts.read(f"begun/{process}", POLL_SECONDS)
            if text is not None:
                return int(text)


# ----------------------------------------------------------------------------------------- joining


def join(place: Place) -> JoinedCluster:
    """Connects this process with the others of a run; call it before JAX has any devices.

    Raises:
        UserError: process 0 cannot be reached, or not all processes come, or two have one number.
    """
    address = place.coordinator or coordinator_of_launcher(place)
    cluster = JoinedCluster(place)
    if not cluster.is_writer:
        announce(
            f"process {place.process_id} of {place.num_processes} on {cluster.host} joins "
            f"{address}, and process 0 reports on the run"
        )
        say_nothing()
    keep_standard_output()
    with Activity(f"waiting for {place.num_processes} processes at {address}"):
        begun = time.monotonic()
        _check_coordinator(place, address)
        seconds = max(MIN_JOIN_SECONDS, JOIN_SECONDS - round(time.monotonic() - begun))
        end = time.monotonic() + seconds - 1
        try:
            cluster.connect(place, address, seconds, lambda: _not_joined(place, address, end))
        except (RuntimeError, ValueError) as error:  # the former is the base of JAX's own
            cluster.give_up()
            atexit.register(_end_at_once, EXIT_USER_ERROR)
            raise _not_joined(place, address, end) from error
    return cluster


def _check_coordinator(place: Place, address: str) -> None:
    """Waits until process 0 listens; process 0 checks that it can.

    Raises:
        UserError: it cannot be reached; or another program has its port.
    """
    host, _, port = address.rpartition(":")
    if place.process_id == 0:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {port} of {socket.gethostname()} "
                f"({reason(error)}): end the other process 0, or name another port with "
                "--coordinator"
            ) from error
        return
    end = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), POLL_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"process 0 cannot be reached at {address} ({reason(error)}): start the same "
                    "command with --process-id 0 on that machine, open the port to the others, or "
                    "correct --coordinator"
                ) from error
        time.sleep(POLL_SECONDS)


def _not_joined(place: Place, address: str, end: float) -> UserError:
    """Returns the error for processes that could not be connected.

    Args:
        end: after this time.monotonic(), processes have not come.
    """
    number, total = place.process_id, place.num_processes
    if time.monotonic() >= end:
        return UserError(
            f"not all of the {total} processes have joined {address} within {JOIN_SECONDS} s: "
            f"start one process with each --process-id from 0 to {total - 1}, or correct "
            "--num-processes"
        )
    return UserError(
        f"process {number} of {total} is refused at {address}, as another process has the same "
        "number, or was started with another --num-processes: give each process its own "
        "--process-id, and all the same --num-processes"
    )
