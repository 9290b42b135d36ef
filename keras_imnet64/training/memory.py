"""How much memory training takes: of the GPU as its backend counts it, else of the process.

Of a process only what no file backs: pages of a mapped store are the system's to take back.
"""

import re
import threading
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
SECONDS = 0.05  # between two looks


class PeakMemory:
    """The most that was taken while it was open, `megabytes`; None where nobody can tell."""

    def __init__(self, devices):
        self.devices = devices
        self.megabytes = None
        self._end = threading.Event()

    def __enter__(self):
        if self.devices.kind == "cpu" and STATUS.exists():
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()
        return self

    def __exit__(self, *exception):
        self._end.set()
        if self.devices.kind != "cpu":
            with suppress(Exception):  # an allocator that does not count; training is worth more
                self.megabytes = to_megabytes(peak_of_gpus(self.devices))

    def _look(self):
        most = 0
        while not self._end.wait(SECONDS):
            most = max(most, anonymous_bytes())
            self.megabytes = to_megabytes(most) or None


def anonymous_bytes():
    """Of this process, on Linux."""
    found = re.search(r"RssAnon:\s+(\d+)", STATUS.read_text())
    return 1024 * int(found[1]) if found else 0


def peak_of_gpus(devices):
    """Bytes on the GPU that took most, or None."""
    if devices.backend == "tensorflow":
        import tensorflow as tf

        return max(tf.config.experimental.get_memory_info(name)["peak"] for name in devices.names)
    if devices.backend == "jax":
        import jax

        named = {f"{device.platform}:{device.id}": device for device in jax.local_devices()}
        stats = [named[name].memory_stats() or {} for name in devices.names]
        return max(each.get("peak_bytes_in_use", 0) for each in stats) or None
    return None


def to_megabytes(number):
    return number and round(number / 1e6, 1)
