"""What a side's process is asked to do, and how it answers. Needs no Keras, for the parent's sake.

All values are paths of files or plain settings. A side writes the files that do not exist, and
reads those that do: the start, the states and the gradients are thus those of the first side.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NearTask:
    """The same step from a state that is one last bit apart.

    Attributes:
        dtype: whose last bit, "float32" or "mixed_bfloat16".
        record: the file to write, see `records.StepRecord`.
    """

    dtype: str
    record: str


@dataclass(frozen=True)
class StepTask:
    """A step that a side computes from a given state, tensor by tensor.

    Attributes:
        step: counted from 0, over all epochs.
        state: all variables before the step; if there is no such file, the side trains to the step
            and writes it.
        gradients: those that the optimizer is given; if there is no such file, the side's own.
        kinks: the inputs of calls with a kink that gradients are computed with; likewise.
        record: the file to write, see `records.StepRecord`.
        near: on the first side alone.
    """

    step: int
    state: str
    gradients: str
    kinks: str
    record: str
    near: tuple[NearTask, ...] = ()


@dataclass(frozen=True)
class DisturbedTask:
    """Further runs of the first side, disturbed in each step as another side's rounding does.

    Attributes:
        disturbance: see `records.Yardstick`.
        record: the file to write, a `records.Yardstick`.
    """

    disturbance: float
    record: str


@dataclass(frozen=True)
class Request:
    """What a side's process does.

    Attributes:
        recipe: TOML text, with the side's dtype.
        start: all variables before the first step.
        num_steps: of the trajectory.
        trajectory: the file to write, see `records.Trajectory`.
        yardstick: likewise, see `records.Yardstick`; None for all sides but the first.
        steps: those to compute tensor by tensor.
        disturbed: on the first side alone, and only where it is needed.
        devices, virtual_devices: as for `take_devices`.
        data_dir, cache_dir: as for `load_data`.
    """

    recipe: str
    start: str
    num_steps: int
    trajectory: str
    yardstick: str | None = None
    steps: tuple[StepTask, ...] = ()
    disturbed: DisturbedTask | None = None
    devices: str | None = None
    virtual_devices: int | None = None
    data_dir: str | None = None
    cache_dir: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The line that the process prints at its end.

    Attributes:
        error: the sentence of a mistake or a failure; None if all is done.
        is_run_failure: whether it is a failure, and not a mistake of the user.
    """

    error: str | None = None
    is_run_failure: bool = False
