"""Finds the place of this process among those that train one run: from options, or a launcher.

`srun`, `mpirun` and indexed Jobs of Kubernetes tell each process its number in environment
variables. Needs neither Keras nor JAX. `cluster` joins the processes.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_imnet64.core.errors import UserError

ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
JAX_ADDRESS = "JAX_COORDINATOR_ADDRESS"
KERAS_ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"  # of all processes, or of process 0
KERAS_COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
KERAS_INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
MULTI_WORKER = (
    "several machines train one run under jax only, because tensorflow's "
    "MultiWorkerMirroredStrategy fails with Keras 3.15"
)
ALONE = "--num-processes 1 trains on this machine alone"


@dataclass(frozen=True)
class Launcher:
    """The variables in which a launcher tells each of its processes its place.

    Attributes:
        name: for messages.
        count: variables with the number of processes; the first that is set counts.
        index: the variable with the number of this process, from 0.
        local_count, local_index: the same for the processes of this machine.
        needed: a variable without which the others are those of an outer allocation.
        address: a variable from which JAX learns the address of process 0.
    """

    name: str
    count: tuple[str, ...]
    index: str
    local_count: str = ""
    local_index: str = ""
    needed: str = ""
    address: str = ""


LAUNCHERS = (
    Launcher(
        "Slurm",
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        "SLURM_PROCID",
        local_count="SLURM_STEP_TASKS_PER_NODE",
        local_index="SLURM_LOCALID",
        needed="SLURM_STEP_NODELIST",
        address="SLURM_STEP_NODELIST",
    ),
    Launcher(
        "Open MPI",
        ("OMPI_COMM_WORLD_SIZE",),
        "OMPI_COMM_WORLD_RANK",
        local_count="OMPI_COMM_WORLD_LOCAL_SIZE",
        local_index="OMPI_COMM_WORLD_LOCAL_RANK",
        address="OMPI_MCA_orte_hnp_uri",
    ),
    Launcher("MPI", ("PMI_SIZE",), "PMI_RANK"),
    Launcher("Kubernetes", (), "JOB_COMPLETION_INDEX"),
)


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train one run together.

    Attributes:
        process_id: 0 to num_processes - 1.
        coordinator: host:port, where process 0 listens; None if JAX learns it from the launcher.
        local_device: the only device that this process takes, by its number on this machine, where
            a launcher has started several processes there; None for all.
    """

    num_processes: int
    process_id: int
    coordinator: str | None = None
    local_device: int | None = None


def find_place(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """Returns the place of this process, or None if it trains alone.

    Options go before the variables of Keras and JAX, and these before those of a launcher.

    Raises:
        UserError: an option is missing or wrong, or the launcher does not say enough.
    """
    launcher = launcher_of(environment)
    count, index = (launcher.count, launcher.index) if launcher else ((), "")
    if num_processes is None:
        num_processes = _number((KERAS_COUNT, *count), environment)
    if num_processes == 1 and not process_id:
        return None
    if process_id is None:
        process_id = _number((KERAS_INDEX, index), environment)
    coordinator = coordinator or _address(environment)
    if launcher is None and (coordinator, num_processes, process_id) == (None, None, None):
        return None
    if num_processes is None or process_id is None:
        raise _missing(launcher, coordinator, num_processes, process_id)
    if num_processes < 1:
        raise UserError(f"--num-processes must be at least 1; received {num_processes}")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id must be 0 to {num_processes - 1}, for {num_processes} processes; "
            f"received {process_id}"
        )
    if coordinator is not None:
        check_address(coordinator)
    elif launcher is None or launcher.address not in environment:
        raise _missing(launcher, coordinator, num_processes, process_id)
    return Place(num_processes, process_id, coordinator, _local_device(launcher, environment))


@dataclass(frozen=True)
class Task:
    """One of several processes that a launcher has started, each to train runs of its own.

    Attributes:
        launcher: its name, for messages.
        local_device: as in `Place`.
    """

    launcher: str
    local_device: int | None


def find_task(environment: Mapping[str, str] = os.environ) -> Task | None:
    """Returns what a launcher says about this process; None if it has started no other."""
    launcher = launcher_of(environment)
    if launcher is None or _number((KERAS_COUNT, *launcher.count), environment) == 1:
        return None
    return Task(launcher.name, _local_device(launcher, environment))


def show_own_gpu(task: Task) -> None:
    """Hides all GPUs from this process and its children, but for the one that is its own."""
    if task.local_device is None:
        return
    visible = os.environ.get(VISIBLE_GPUS)
    names = visible.split(",") if visible else []
    own = task.local_device
    os.environ[VISIBLE_GPUS] = names[own] if own < len(names) else str(own)


def launcher_of(environment: Mapping[str, str]) -> Launcher | None:
    """Returns the launcher that has started this process, or None."""
    for launcher in LAUNCHERS:
        if launcher.index in environment and (launcher.needed or launcher.index) in environment:
            return launcher
    return None


def _address(environment: Mapping[str, str]) -> str | None:
    """Returns the address of process 0 from the variables of JAX and Keras, if they have it."""
    addresses = environment.get(JAX_ADDRESS) or environment.get(KERAS_ADDRESSES) or ""
    return addresses.split(",")[0] or None


def _number(names: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Returns the number in the first of some variables that is set."""
    for name in names:
        text = environment.get(name, "")
        if text:
            if not text.isdecimal():
                raise UserError(
                    f'the environment variable {name} must be a whole number; received "{text}"'
                )
            return int(text)
    return None


def _local_device(launcher: Launcher | None, environment: Mapping[str, str]) -> int | None:
    """Returns the number of the device for this process, if processes share the machine's.

    A launcher that gives each process its own devices shows only these, in CUDA_VISIBLE_DEVICES.
    """
    if launcher is None or not launcher.local_index:
        return None
    count = environment.get(launcher.local_count, "1")  # Slurm: "4" or "4(x2),3"
    shares = not re.match(r"1(\D|$)", count)
    visible = environment.get(VISIBLE_GPUS)
    if not shares or (visible is not None and "," not in visible):
        return None
    return _number([launcher.local_index], environment)


def check_address(coordinator: str) -> None:
    """Refuses a text that is no host:port."""
    found = ADDRESS.fullmatch(coordinator)
    if not found or not 0 < int(found["port"]) < 2**16:
        raise UserError(
            f'--coordinator must be HOST:PORT, such as 10.0.0.1:1234; received "{coordinator}"'
        )


def _missing(
    launcher: Launcher | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> UserError:
    """Returns the error that names the options that are missing."""
    values = {
        "--coordinator HOST:PORT": coordinator,
        "--num-processes N": num_processes,
        "--process-id I": process_id,
    }
    missing = " and ".join(option for option, value in values.items() if value is None)
    if launcher is None:
        return UserError(
            "--coordinator, --num-processes and --process-id belong together, for one process on "
            f"each machine: add {missing}"
        )
    return UserError(
        f"{launcher.name} has started this process as number {process_id} of several, but does "
        f"not say all that they need to train one run: add {missing}; {ALONE}"
    )


def check_backend(place: Place | None, backend: str) -> None:
    """Refuses several machines under another backend than JAX, and names the JAX command.

    Raises:
        UserError: the options, a launcher or TF_CONFIG ask for several processes.
    """
    if backend == "jax":
        return
    if place is not None:
        raise UserError(
            f"{MULTI_WORKER}; received {place.num_processes} processes under {backend}: add "
            f"--backend jax to the same command; {ALONE}"
        )
    workers, index = _tf_config(os.environ.get("TF_CONFIG", ""))
    if backend == "tensorflow" and len(workers) > 1:
        raise UserError(
            f"{MULTI_WORKER}; received TF_CONFIG with {len(workers)} workers: run the same command "
            f"with --backend jax --coordinator {workers[0]} --num-processes {len(workers)} "
            f"--process-id {index}, or unset TF_CONFIG to train on this machine alone"
        )


def _tf_config(text: str) -> tuple[list[str], int]:
    """Returns the addresses of the workers in TF_CONFIG, and the number of this one."""
    try:
        config = json.loads(text or "{}")
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chief, workers = cluster.get("chief", []), cluster.get("worker", [])
        index = int(task.get("index", 0)) + (len(chief) if task.get("type") == "worker" else 0)
        return [str(address) for address in (*chief, *workers)], index
    except (AttributeError, TypeError, ValueError):
        return [], 0  # not what TensorFlow reads: a variable of something else
