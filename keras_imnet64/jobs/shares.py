"""Splits the machine among runs that are trained at the same time, by GPUs or CPU cores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keras_imnet64.backend.launchers import VISIBLE_GPUS
from keras_imnet64.core.errors import UserError


@dataclass(frozen=True)
class MachineShare:
    """The part of the machine that one process trains on."""

    options: tuple[str, ...] = ()  # of the `fit` command
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: frozenset[int] | None = None  # to which the process is bound; None for all


def share_machine(
    num_jobs: int, devices: str | None, gpus: Sequence[int]
) -> Sequence[MachineShare]:
    """Splits the GPUs, or the CPU cores of a machine without GPUs, among jobs.

    There are as many shares as jobs, even when fewer runs are left to train: another number of
    cores would change the last bits of sums.

    Args:
        num_jobs: number of runs that are trained at a time.
        devices: as for `take_devices`.
        gpus: indices of the GPUs to share.

    Raises:
        UserError: there are fewer GPUs than jobs.
    """
    if num_jobs == 1:
        return [MachineShare(options=("--devices", devices) if devices else ())]
    if not gpus:
        return [MachineShare(cores=cores) for cores in _share_cores(num_jobs)]
    if len(gpus) < num_jobs:
        raise UserError(f"--jobs must be at most the {len(gpus)} devices; received {num_jobs}")
    visible = os.environ.get(VISIBLE_GPUS)
    names = [visible.split(",")[index] if visible else str(index) for index in gpus]
    return [
        MachineShare(environment={VISIBLE_GPUS: ",".join(names[job::num_jobs])})
        for job in range(num_jobs)
    ]


def _share_cores(num_jobs: int) -> Sequence[frozenset[int] | None]:
    """Returns the cores of each job; None if they are too few or cannot be chosen (macOS)."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < num_jobs:
        return [None] * num_jobs
    return [frozenset(cores[job::num_jobs]) for job in range(num_jobs)]
