"""The cores and the memory that this process may use, of the machine or of its control group.

Slurm, Docker and Kubernetes limit jobs by control groups.
"""

import math
import os
from pathlib import Path

from keras_imnet64.core.types import StrPath


def cores() -> int | None:
    """Counts the cores of the affinity mask, or fewer where a control group grants less time."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    count = len(affinity(0)) if affinity else os.cpu_count()
    for group in _control_groups():
        quota, _, period = _read(group / "cpu.max").partition(" ")  # "max 100000"
        if count and quota.isdigit() and period.strip().isdigit():
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def memory() -> tuple[int | None, int | None]:
    """Returns the total and the available bytes, of the machine or of a smaller control group.

    Both are None if psutil is missing.
    """
    try:
        import psutil
    except ImportError:
        return None, None
    machine = psutil.virtual_memory()
    total: int = machine.total
    available: int = machine.available
    for group in _control_groups():
        limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            rows = [line.split() for line in _read(group / "memory.stat").splitlines()]
            cached = sum(int(row[1]) for row in rows if row[0] == "inactive_file")  # can be freed
            total = min(total, int(limit))
            available = min(available, max(0, int(limit) - int(used) + cached))
    return total, available


def _control_groups() -> list[Path]:
    """Returns the folders of this process's control groups (version 2), the innermost first."""
    root = Path("/sys/fs/cgroup")
    own = [line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    folders = [root / group.strip("/") for group in own]
    return [f for folder in folders for f in (folder, *folder.parents) if f.is_relative_to(root)]


def _read(file: StrPath) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""
