"""Measures the peak memory of training, and advises a run whose memory ran out.

The memory is that of the GPU as its backend counts it, else that of the process. Of a process only
memory that no file backs is counted: the system can take back the pages of a mapped store.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import RunFailed

STATUS = Path("/proc/self/status")
POLL_SECONDS = 0.05
OUT_OF_MEMORY = ("resource_exhausted", "resourceexhausted", "out of memory", "memoryerror")


class PeakMemory:
    """Measures the peak of memory within its context.

    Attributes:
        megabytes: the peak; None where the system or the allocator does not count, and under JAX on
            a GPU whose peak was as high before.
    """

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.megabytes: float | None = None
        self._before = 0
        self._end = threading.Event()

    def __enter__(self) -> Self:
        if self.devices.kind == "cpu" and STATUS.exists():
            threading.Thread(target=self._poll, daemon=True).start()
        elif self.devices.kind != "cpu":
            with suppress(Exception):
                self._before = reset_gpu_peak(self.devices)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        if self.devices.kind != "cpu":
            with suppress(Exception):  # an allocator that does not count must not end a run
                peak = peak_gpu_bytes(self.devices)
                self.megabytes = to_megabytes(peak) if peak > self._before else None

    def _poll(self) -> None:
        peak = 0
        while not self._end.wait(POLL_SECONDS):
            peak = max(peak, anonymous_bytes())
            self.megabytes = to_megabytes(peak)


def anonymous_bytes() -> int:
    """Returns the bytes of this process that no file backs; 0 where they are not counted."""
    found = re.search(r"RssAnon:\s+(\d+)", STATUS.read_text())
    return 1024 * int(found[1]) if found else 0


def reset_gpu_peak(devices: Devices) -> int:
    """Makes the GPUs count their peak anew, under TensorFlow; returns the peak that stays."""
    if devices.backend != "tensorflow":
        return peak_gpu_bytes(devices)
    import tensorflow as tf

    for name in devices.names:
        tf.config.experimental.reset_memory_stats(name)
    return 0


def peak_gpu_bytes(devices: Devices) -> int:
    """Returns the largest peak of any GPU; 0 where the backend does not count."""
    if devices.backend == "tensorflow":
        import tensorflow as tf

        return max(tf.config.experimental.get_memory_info(name)["peak"] for name in devices.names)
    if devices.backend == "jax":
        import jax

        by_name = {f"{device.platform}:{device.id}": device for device in jax.local_devices()}
        own = [name for name in devices.names if name in by_name]  # others are of other processes
        stats = [by_name[name].memory_stats() or {} for name in own]
        return max(each.get("peak_bytes_in_use", 0) for each in stats)
    return 0


def to_megabytes(num_bytes: int) -> float | None:
    """Returns megabytes to one decimal, or None for 0 bytes."""
    return round(num_bytes / 1e6, 1) if num_bytes else None


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error, whose type differs by backend, means that memory ran out."""
    text = f"{type(error).__name__} {error}".lower()
    return any(sign in text for sign in OUT_OF_MEMORY)


@contextmanager
def report_out_of_memory(advice: str) -> Iterator[None]:
    """Raises RunFailed with the advice if memory runs out in the block."""
    try:
        yield
    except Exception as error:  # each backend raises its own type when memory runs out
        if not is_out_of_memory(error):
            raise
        raise RunFailed(advice) from error


def out_of_memory_advice(
    batch_size: int, num_parts: int, num_devices: int, remat_is_off: bool
) -> str:
    """Returns the error message of a run whose memory ran out, with the options that help.

    Args:
        batch_size: the recipe's `data.batch_size`.
        num_parts: the recipe's `train.accumulate_steps`.
        num_devices: on which a part must be divided evenly.
        remat_is_off: whether the recipe leaves `train.remat` off.
    """
    candidates = range(num_parts + 1, batch_size + 1)
    more_parts = next((n for n in candidates if batch_size % (n * num_devices) == 0), None)
    remedies = []
    if remat_is_off:
        remedies.append(
            "--set train.remat=true resumes the run and recomputes activations instead of keeping "
            "them"
        )
    if more_parts:
        remedies.append(
            f"--fresh --set train.accumulate_steps={more_parts} computes the same batch in "
            f"{more_parts} parts (each with its own batch statistics)"
        )
    remedy = "; or ".join(remedies) or "set a smaller data.batch_size"
    return f"out of memory at {batch_size // num_parts} images per step: {remedy}"
