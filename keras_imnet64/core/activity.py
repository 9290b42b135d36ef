"""Says on standard error what a command is doing, while that takes long and prints nothing itself.

On a terminal there is one line that shows the seconds and disappears at the end. Elsewhere, as in
a log, a line begins when an activity has taken two seconds, then after 30, 60, 120, 240, ...
seconds; in between it grows by a dot each second, so that a log shows what is going on, is never
silent for long, and does not fill. A kind of activity may have rarer lines and dots, and a line
that its result ends (`complete`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from keras_imnet64.core.errors import printable

REFRESH_SECONDS = 0.25
DOT_SECONDS = 1.0  # where there is no terminal, as the two below
FIRST_LINE_SECONDS = 2.0
SECOND_LINE_SECONDS = 30.0  # later ones after twice as long each, or again after as long
CLEAR_LINE = "\r\x1b[2K"


class Activity:
    """Something that takes a while; use it in a `with` block, or call `start` and `stop`.

    Activities may be nested: the innermost is shown.

    Attributes:
        dot_seconds: between two dots in a log.
        keeps_line_seconds: how long an activity within this one only adds dots to its line in a
            log, before it gets a line of its own.

    Args:
        text: what is being done, such as "loading tensorflow".
        at_once: whether it is shown at once, and not only when it takes long.
        steady: whether a log has a line every 30 seconds to the end, as is right for progress whose
            `text` is changed meanwhile and has its own figures.
    """

    dot_seconds = DOT_SECONDS
    keeps_line_seconds = 0.0

    def __init__(self, text: str, *, at_once: bool = False, steady: bool = False) -> None:
        self.text, self.at_once, self.steady = printable(text), at_once, steady
        self.done: int | None = None
        self.total = 0
        self.begun = 0.0
        self.next_line = 0.0  # of a log, in seconds from the beginning

    def __enter__(self) -> Activity:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.begun = time.monotonic()
        self.next_line = 0.0 if self.at_once else FIRST_LINE_SECONDS
        _screen.add(self)

    def stop(self) -> None:
        """Ends the activity; does nothing if it has ended."""
        _screen.remove(self)

    def complete(self, result: str) -> bool:
        """Ends the activity; in a log, its line and its dots go on with the rest of `result`.

        Returns:
            Whether they do: the log ends with a line of the activity that `result` begins with.
        """
        return _screen.complete(self, result)

    def count(self, done: int, total: int) -> None:
        """Shows how much is done from now on."""
        self.done, self.total = done, total

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def line(self) -> str:
        counted = "" if self.done is None else f" {self.done:,}/{self.total:,}"
        is_long = self.seconds >= FIRST_LINE_SECONDS and not self.steady
        seconds = f" {self.seconds:.0f} s" if is_long else ""
        return f"{self.text} ...{counted}{seconds}"

    def plan_next_line(self) -> None:
        """Notes that a log has a line now."""
        while self.next_line <= self.seconds:
            later = self.next_line + SECOND_LINE_SECONDS if self.steady else 2 * self.next_line
            self.next_line = max(SECOND_LINE_SECONDS, later)


class _Screen:
    """What stands on standard error: the innermost activity, refreshed by a thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.activities: list[Activity] = []
        self.thread: threading.Thread | None = None
        self.stream: TextIO | None = None  # in place of standard error
        self.shown: Activity | None = None  # behind whose line the cursor is
        self.shown_line = ""  # without its dots
        self.last_written = 0.0  # time.monotonic()
        self.num_suspended = 0

    def add(self, activity: Activity) -> None:
        with self.lock:
            if not self.activities:
                self.last_written = time.monotonic()
            self.activities.append(activity)
            if activity.at_once:
                self.refresh()
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, daemon=True, name="activity")
                self.thread.start()

    def remove(self, activity: Activity) -> None:
        with self.lock:
            if activity in self.activities:
                self.activities.remove(activity)
                if activity is self.shown:
                    self.clear()

    def complete(self, activity: Activity, result: str) -> bool:
        with self.lock:
            stream = self.stream or sys.stderr
            is_open = activity is self.shown and not is_terminal(stream)
            goes_on = is_open and result.startswith(self.shown_line)
            if goes_on:
                with contextlib.suppress(OSError, ValueError):
                    stream.write(result.removeprefix(self.shown_line))
            self.remove(activity)  # which ends the line
            return goes_on

    def _run(self) -> None:
        while True:
            time.sleep(REFRESH_SECONDS)
            with self.lock:
                if not self.activities:
                    self.thread = None
                    return
                self.refresh()

    def refresh(self) -> None:
        """Shows the innermost activity; called within the lock."""
        if self.num_suspended or not self.activities:
            return
        activity, stream = self.activities[-1], self.stream or sys.stderr
        silent = time.monotonic() - self.last_written
        was_silent = self.shown is None and silent >= FIRST_LINE_SECONDS
        is_due = activity.seconds >= activity.next_line and self._has_room(activity)
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            if is_terminal(stream):
                line = activity.line()[: shutil.get_terminal_size().columns - 1]
                stream.write(f"{CLEAR_LINE}{line}")
                self.shown = activity
            elif was_silent or is_due:
                self.clear()
                self.shown_line = activity.line()
                stream.write(self.shown_line)
                self.shown, self.last_written = activity, time.monotonic()
                activity.plan_next_line()
            elif self.shown and silent >= self.shown.dot_seconds:
                stream.write(".")
                self.last_written = time.monotonic()
            stream.flush()

    def _has_room(self, activity: Activity) -> bool:
        """Whether a log may have a line of an activity, and not only dots of the one around it."""
        shown = self.shown or activity
        return shown is activity or activity.seconds >= shown.keeps_line_seconds

    def clear(self) -> None:
        """Removes the line from the screen, or ends that of a log; called within the lock."""
        if self.shown is None:
            return
        self.shown, self.last_written = None, time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            stream = self.stream or sys.stderr
            stream.write(CLEAR_LINE if is_terminal(stream) else "\n")
            stream.flush()


_screen = _Screen()


def is_active() -> bool:
    """Whether an activity is going on."""
    return bool(_screen.activities)


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Keeps activities from the screen while a line is printed, or while a bar is drawn."""
    suspend()
    try:
        yield
    finally:
        resume()


def suspend() -> None:
    """Shows no activity until `resume` is called as often."""
    with _screen.lock:
        _screen.num_suspended += 1
        _screen.clear()


def resume() -> None:
    with _screen.lock:
        _screen.num_suspended -= 1
        _screen.last_written = time.monotonic()


@contextlib.contextmanager
def showing_on(descriptor: int) -> Iterator[None]:
    """Shows activities on a file descriptor while standard error is redirected.

    If standard error is no file, as in tests, it stays.
    """
    try:
        is_redirected = sys.stderr.fileno() == 2
    except (OSError, ValueError):
        is_redirected = False
    if not is_redirected:
        yield
        return
    with open(descriptor, "w", closefd=False, errors="backslashreplace") as stream:
        with _screen.lock:
            _screen.stream = stream
        try:
            yield
        finally:
            with _screen.lock:
                _screen.stream = None
