"""A small client of headless Chromium by the DevTools protocol, over pipes: no driver, no server.

`--remote-debugging-pipe` reads commands from file descriptor 3 and writes to 4, JSON objects that
end with a zero byte. What a page logs, throws or requests is collected.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60  # for an answer, on a machine that does other things too


def find_chromium():
    """The program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in a browser of its own.

    Attributes:
        requests: addresses that the page has asked for, its own among them.
        messages: what it logged as an error or a warning, and exceptions of its scripts.
    """

    def __init__(self, to_browser, from_browser):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.buffer, self.count, self.events = b"", 0, []
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """The result of a command."""
        self.count += 1
        command = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(command).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], end - time.monotonic())
            assert ready, "the browser does not answer"
            content = os.read(self.from_browser, 1 << 20)
            assert content, "the browser has ended"
            self.buffer += content
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def show(self, path, width, scheme):
        """Opens a file in a window of this width, in light or dark."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def run(self, script):
        """The value of an expression."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    @property
    def requests(self):
        return [e["params"]["request"]["url"] for e in self._events("Network.requestWillBeSent")]

    @property
    def messages(self):
        logged = [e["params"]["entry"]["text"] for e in self._events("Log.entryAdded")]
        thrown = [
            str(e["params"]["exceptionDetails"]) for e in self._events("Runtime.exceptionThrown")
        ]
        said = [str(e["params"]["args"]) for e in self._events("Runtime.consoleAPICalled")]
        return logged + thrown + said

    def _events(self, method):
        self.run("0")  # what comes before its answer has arrived
        return [event for event in self.events if event.get("method") == method]

    def screenshot(self, path):
        """Writes the whole page as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.send(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        )
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def chromium(program):
    """A page of a new browser with an empty profile."""
    read_end, to_browser = map(above_nine, os.pipe())
    from_browser, write_end = map(above_nine, os.pipe())
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-dev-shm-usage", "--disable-background-networking"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        actions = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, read_end, 3), (os.POSIX_SPAWN_DUP2, write_end, 4)]
        child = os.posix_spawn(program, command, os.environ, file_actions=actions)
        os.close(read_end)
        os.close(write_end)
        try:
            page = Page(to_browser, from_browser)
            yield page
            page.session = None
            page.send("Browser.close")
        finally:
            os.close(to_browser)  # at the end of which it ends too
            os.close(from_browser)
            os.waitpid(child, 0)


def above_nine(descriptor):
    """The same file under a number that the browser's own cannot be."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
