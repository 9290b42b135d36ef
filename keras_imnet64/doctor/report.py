"""The doctor's report as records: the facts, the outcomes of trials and the problems.

Field names are the keys of `doctor --json`; None is unknown. This module needs only the standard
library, so that an incomplete installation can be examined.
"""

from dataclasses import asdict, dataclass, field

from keras_imnet64.backend.keras_settings import SETTINGS, KerasSettings
from keras_imnet64.core.types import JsonObject


@dataclass(frozen=True)
class Problem:
    """A problem, and how to fix it."""

    what: str  # a sentence
    mend: str  # the command or the advice that fixes it


@dataclass(frozen=True)
class UnmetRequirement:
    """A distribution that this package needs, and that is missing or of a wrong version."""

    name: str
    needs: str  # such as ">=3.15"; empty for any version
    found: str | None  # its version


@dataclass(frozen=True)
class BackendTrial:
    """Whether a backend imports and computes."""

    installed: bool
    imports: bool = False
    computes: bool = False
    version: str | None = None
    devices: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None  # one line

    def to_json(self) -> JsonObject:
        return asdict(self) if self.installed else {"installed": False}


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVIDIA's driver lists it."""

    name: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """The cores and the memory that this process may use, and the GPUs of the machine."""

    cpu_cores: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    gpus: list[Gpu]
    gpu_error: str | None  # one line


@dataclass(frozen=True)
class Place:
    """A folder that commands write into."""

    what: str  # its purpose: "data", "cache", "runs" or "temporary files"
    path: str
    mount: str | None = None
    free_bytes: int | None = None
    writable: bool = False


@dataclass(frozen=True)
class Programs:
    """The folder of compiled programs, see `backend.programs`."""

    folder: str | None  # None if they are not kept, or by JAX itself
    chosen_by: str  # a variable, or "default"
    bytes: int
    max_bytes: int
    error: str | None = None  # why programs cannot be kept, one line


@dataclass(frozen=True)
class DatasetState:
    """A data set on this machine, see `data.datasets.info`."""

    name: str
    prepare: str  # the command that prepares it
    state: str  # as `info` names it, or "damaged" or "unknown"
    verified: bool | None
    splits: dict[str, int | None]  # images by split
    bytes: int | None = None
    location: str | None = None
    problem: str | None = None  # one line


@dataclass(frozen=True)
class Report:
    """Everything that `doctor.examine` finds."""

    versions: dict[str, str | None]  # by distribution
    unmet_requirements: list[UnmetRequirement]
    keras_json: KerasSettings
    chosen_backend: str
    chosen_by: str  # KERAS_BACKEND, the path of keras.json, or "default"
    refused_settings: list[Problem]
    backends: dict[str, BackendTrial]
    machine: Machine
    disk: list[Place]
    programs: Programs
    datasets: list[DatasetState]
    datasets_error: str | None  # why the data sets could not be examined, one line
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Returns what `doctor --json` prints."""
        settings = self.keras_json
        found = {"path": str(settings.path), "exists": settings.exists, "fault": settings.fault}
        values = {key: settings.content.get(key) for key in SETTINGS}
        backends = {name: trial.to_json() for name, trial in self.backends.items()}
        return asdict(self) | {"keras_json": found | values, "backends": backends}
