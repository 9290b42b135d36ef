"""The place of a process among several: from options, from launchers, and what is refused."""

import json
import os

import pytest

from keras_imnet64.backend.launchers import (
    Place,
    Task,
    check_backend,
    find_place,
    find_task,
    show_own_gpu,
)
from keras_imnet64.core.errors import UserError

SLURM = {  # what srun sets for the second of two tasks on two nodes
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_NTASKS": "8",  # of the job
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}


def test_options_place_a_process():
    place = find_place("10.0.0.1:1234", 4, 3, {})
    assert place == Place(4, 3, "10.0.0.1:1234")
    assert find_place("[fe80::1]:1234", 2, 0, {}) == Place(2, 0, "[fe80::1]:1234")


def test_a_process_that_nobody_places_is_alone():
    assert find_place(environment={}) is None
    assert find_place(num_processes=1, environment=SLURM) is None
    assert find_place(environment=SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    allocation = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert find_place(environment=allocation) is None  # a job's script, outside of srun


def test_launchers_place_their_processes():
    assert find_place(environment=SLURM) == Place(2, 1)
    assert find_place(environment=OPEN_MPI) == Place(4, 3, local_device=1)
    assert find_place("a:1", environment={"PMI_SIZE": "2", "PMI_RANK": "1"}) == Place(2, 1, "a:1")
    pod = {"JOB_COMPLETION_INDEX": "2", "KERAS_DISTRIBUTION_NUM_PROCESSES": "3"}
    address = {"JAX_COORDINATOR_ADDRESS": "train-0.train:1234"}
    assert find_place(environment=pod | address) == Place(3, 2, "train-0.train:1234")


def test_processes_of_one_machine_share_its_devices_unless_each_sees_its_own():
    node = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_LOCALID": "3"}
    assert find_place(environment=node).local_device == 3
    assert find_place(environment=node | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_device == 3
    assert find_place(environment=node | {"CUDA_VISIBLE_DEVICES": "3"}).local_device is None
    assert find_place(environment=SLURM).local_device is None  # one on each of two nodes


def test_tasks_of_a_launcher_need_no_coordinator():
    assert find_task({}) is None
    assert find_task(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_task(SLURM) == Task("Slurm", None)
    assert find_task({"PMI_SIZE": "2", "PMI_RANK": "1"}) == Task("MPI", None)
    assert find_task({"JOB_COMPLETION_INDEX": "2"}) == Task("Kubernetes", None)


@pytest.mark.parametrize(
    ("local", "visible", "own"), [(3, None, "3"), (1, "4,5,6", "5"), (None, "4,5", "4,5")]
)
def test_a_task_sees_its_own_gpu(local, visible, own, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    show_own_gpu(Task("Slurm", local))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        (("a:1", None, None), {}, "belong together.*add --num-processes N and --process-id I"),
        ((None, 2, 0), {}, "add --coordinator HOST:PORT"),
        (("a:1", 2, 2), {}, "--process-id must be 0 to 1, for 2 processes; received 2"),
        (("a:1", 2, -1), {}, "must be 0 to 1.*received -1"),
        (("a:1", 0, 0), {}, "--num-processes must be at least 1; received 0"),
        (("a", 2, 0), {}, 'must be HOST:PORT, such as 10.0.0.1:1234; received "a"'),
        (("a:99999", 2, 0), {}, "must be HOST:PORT"),
        (("a:1", 1, 1), {}, "--process-id must be 0 to 0, for 1 processes; received 1"),
        ((None, None, None), {"JOB_COMPLETION_INDEX": "2"}, "Kubernetes .* number 2.*--num-proc"),
        ((None, None, None), SLURM | {"SLURM_PROCID": "x"}, 'SLURM_PROCID must be .*received "x"'),
        (
            (None, None, None),
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},  # Open MPI 5
            "Open MPI has started .* add --coordinator HOST:PORT; --num-processes 1 trains",
        ),
    ],
)
def test_what_does_not_place_a_process_is_refused(options, environment, sentence):
    with pytest.raises(UserError, match=sentence):
        find_place(*options, environment)


def test_several_machines_under_tensorflow_are_told_the_jax_command(monkeypatch):
    workers = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
    command = "--backend jax --coordinator a:1 --num-processes 2 --process-id 1"
    with pytest.raises(UserError, match=f"fails with Keras 3.15; .* 2 workers: .*{command}"):
        check_backend(None, "tensorflow")
    check_backend(None, "jax")
    with pytest.raises(UserError, match="received 2 processes under torch: add --backend jax"):
        check_backend(Place(2, 0, "a:1"), "torch")
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers | {"cluster": {"worker": ["a:1"]}}))
    check_backend(None, "tensorflow")
    monkeypatch.setenv("TF_CONFIG", "of another program")
    check_backend(None, "tensorflow")
