"""Runs modules of this package in child processes, and explains why a child failed.

A child reads its request as one JSON object from standard input and prints JSON objects, each on a
line of its own, to standard output. Other output of libraries is ignored.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import RunFailed, reason
from keras_imnet64.core.invocation import STARTED_AS, program_name
from keras_imnet64.core.types import JsonObject, StrPath

PACKAGE_PARENT = Path(__file__).parents[2]
NO_ANSWER = "no answer within"  # `doctor` recognises failures that begin with these two
MAX_WORDS = 300  # characters of what a process that has aborted said
BY_SIGNAL = "it was ended by signal"
EXPLANATION_PATTERNS = (  # of the line that explains a failure, the most telling first
    r"Error: (.+)",  # the sentence that a command of this package ends with
    r"([\w.]*(?:Error|Exception)\b.*)",  # the end of a traceback, even if advice follows
    r"(.+)",
)


@dataclass(frozen=True)
class ChildResult:
    """What a child process printed, and why it failed."""

    output: str  # standard output until the end or the failure
    failure: str | None  # a clause such as "it ended with status 3"; None for success

    def objects(self) -> Iterator[JsonObject]:
        """Yields the JSON objects that the child printed."""
        for line in self.output.splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value

    def reply(self, task: str) -> JsonObject:
        """Returns the last JSON object that the child printed.

        Args:
            task: what the child does, as the subject of an error message.

        Raises:
            RunFailed: the child failed, or printed no object.
        """
        printed = list(self.objects())
        if self.failure or not printed:
            raise RunFailed(f"{task} failed: {self.failure or 'it printed no result'}")
        return printed[-1]


def run_child(
    module: str,
    *arguments: str,
    request: JsonObject | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    own_session: bool = False,
    show_errors: bool = False,
) -> ChildResult:
    """Runs a module of this package in a child process and waits until it ends.

    Args:
        module: dotted name of the module that `python -m` runs.
        request: what the child reads from standard input.
        environment: the variables of the child; None for those of this process.
        timeout: seconds after which the child is killed.
        own_session: whether signals from the terminal reach this process alone.
        show_errors: whether the child writes to the standard error of this process, which progress
            bars need; otherwise it is captured and explains a failure.
    """
    try:
        child = subprocess.run(
            module_command(module, arguments),
            env=environment_with_package(environment),
            input="" if request is None else json.dumps(request),
            stdout=subprocess.PIPE,
            stderr=None if show_errors else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
            start_new_session=own_session,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""  # bytes in spite of text=True
        text = output if isinstance(output, str) else output.decode(errors="replace")
        return ChildResult(text, f"{NO_ANSWER} {timeout} seconds")
    except OSError as error:
        return ChildResult("", reason(error))
    return ChildResult(child.stdout, failure_reason(child.returncode, child.stderr or ""))


def start_child(
    module: str,
    *arguments: str,
    log: StrPath,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a module of this package in a child process, whose output is appended to a log.

    The child has a session of its own, so that a signal from the terminal reaches this process
    alone. Its standard input is a pipe that closes when this process ends for any reason, see
    `end_with_parent`.
    """
    with open(log, "a") as output:
        return subprocess.Popen(
            module_command(module, arguments),
            env=environment_with_package(environment),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


_follows_parent = False


def follows_parent() -> bool:
    """Whether this process is one that `end_with_parent` ends."""
    return _follows_parent


def end_with_parent() -> None:
    """Sends this process SIGTERM when its standard input closes; for children of `start_child`."""
    global _follows_parent
    _follows_parent = True

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def failure_reason(status: int, output: str) -> str | None:
    """Returns why a process failed, as a clause on one line, or None for exit status 0.

    Args:
        status: its exit status, or minus the number of the signal that ended it.
        output: what it wrote to standard error, or at least the end of that.
    """
    if status == 0:
        return None
    if status > 0:
        return explaining_line(output) or f"it ended with status {status}"
    why = ""
    if -status == signal.SIGKILL:
        why = ", as happens where memory runs out"
    elif -status == signal.SIGABRT and (last_words := last_line(output)):
        why = f': "{last_words}"'  # a library that aborts says what it has found
    return f"{BY_SIGNAL} {-status} ({signal.strsignal(-status)}){why}"


def explaining_line(output: str) -> str:
    """Returns the line of an output that explains a failure, or "" for an empty output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern in EXPLANATION_PATTERNS:
        found = [match[1] for line in lines if (match := re.match(pattern, line))]
        if found:
            return found[-1]
    return ""


def last_line(output: str) -> str:
    """Returns the last line that is not empty, cut to a length that fits a sentence, or ""."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:MAX_WORDS] if lines else ""


def module_command(module: str, arguments: tuple[str, ...]) -> list[str]:
    # -P: files of the working directory are not modules
    return [sys.executable, "-P", "-m", module, *arguments]


def environment_with_package(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Returns the variables of a child that imports this package from where this process does.

    Its messages name the program as this process was started.
    """
    variables = dict(os.environ if environment is None else environment)
    variables[STARTED_AS] = program_name()
    if PACKAGE_PARENT.name not in ("site-packages", "dist-packages"):  # which Python searches
        path = [str(PACKAGE_PARENT), variables.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return variables
