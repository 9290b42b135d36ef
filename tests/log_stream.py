"""A log in place of standard error, and the time, which only a test moves."""

import io

from keras_imnet64.core import activity


class Log(io.StringIO):
    """A stream in place of standard error, and a clock that only the test moves."""

    now = 1000.0

    def __init__(self, is_terminal=False):
        super().__init__()
        self.isatty = lambda: is_terminal

    def wait(self, seconds, every=0.5):
        for _ in range(round(seconds / every)):
            self.now += every
            with activity._screen.lock:
                activity._screen.refresh()


def make_log(monkeypatch, is_terminal=False):
    """The stream of activities; the thread that refreshes the screen does nothing."""
    stream = Log(is_terminal)
    monkeypatch.setattr(activity._screen, "stream", stream)
    monkeypatch.setattr(activity._screen, "_run", lambda: None)
    monkeypatch.setattr(activity._screen, "thread", None)
    monkeypatch.setattr(activity.time, "monotonic", lambda: stream.now)
    monkeypatch.setenv("TERM", "xterm")
    return stream
