"""Several processes on the loopback interface train one run, under JAX.

Two processes with a device each must end with the bits of one process with two devices. A process
compiles its steps for some seconds, so a test starts few of them and asks several questions.
"""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from forks import Forks
from same_end import same_end

from keras_imnet64.runs import Run

FIT = "keras_imnet64.training.fit"
MODULE = "process_of_several"
TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
RECIPE = {  # nearly all that has state or looks at the whole batch
    "model": {"dropout": 0.2},
    "data": {"holdout": 17, "steps_per_epoch": 4},
    "augment": [{"op": "pad_crop", "padding": 2}, {"op": "mixup_or_cutmix"}],
    "optimizer": {
        "name": "adamw",
        "learning_rate": 0.003,
        "weight_decay": 0.05,
        "clip_norm": 0.5,
        "lookahead": {"steps": 2},
    },
    "train": {
        "epochs": 3,
        "ema": 0.9,
        "accumulate_steps": 2,
        "remeasure_statistics": 2,
        "average_last": 0,
        "checkpoint_every": "3 steps",
    },
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machines:
    """Runs the processes of runs that train one recipe on one data set."""

    def __init__(self, forks, place, recipe, data_dir):
        self.forks, self.place, self.data_dir = forks, place, data_dir
        (place / "recipe.toml").write_text(recipe.to_toml())

    def fit(self, name, *options, actions=(), **environment):
        """The program that trains into the folder `name`."""
        command = ["cli.py", *actions, "--", "fit", "--json"]
        command += ["--recipe", self.place / "recipe.toml", "--out", self.place / name]
        command += ["--data-dir", self.data_dir, *options]
        arguments = list(map(str, command))
        return {"module": MODULE, "arguments": arguments, "environment": environment}

    def ends(self, *programs):
        """(exit status, standard output, standard error) of programs that run at the same time."""
        return self.forks.run(*programs)

    def ends_of_all(self, name, *options, count=2, actions=None):
        """Those of the processes of a run; `actions` are by the number of a process."""
        address = f"127.0.0.1:{free_port()}"
        options += (f"--coordinator={address}", f"--num-processes={count}")
        numbers = range(count)
        actions = {number: () for number in numbers} | (actions or {})
        return self.ends(
            *(self.fit(name, *options, f"--process-id={n}", actions=actions[n]) for n in numbers)
        )

    def run(self, name):
        return Run(self.place / name)


def statuses(found):
    return [status for status, _, _ in found]


def errors(found):
    """The sentence with which each process ended."""
    return [re.findall(r"^Error: (.*)$", err, re.MULTILINE) for _, _, err in found]


@pytest.fixture(scope="module")
def machines(small_recipe, data_dir, tmp_path_factory):
    path = os.pathsep.join(map(str, (ROOT, TESTS)))
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": path}
    with Forks("tensorflow", FIT, MODULE, environment=environment) as forks:
        place = tmp_path_factory.mktemp("machines")
        yield Machines(forks, place, small_recipe(**RECIPE), data_dir)


@pytest.fixture(scope="module")
def straight(machines):
    """The run of one process with two devices."""
    [(status, _, err)] = machines.ends(
        machines.fit("straight", "--virtual-devices=2", "--no-report")
    )
    assert status == 0, err[-3000:]
    return machines.run("straight")


@pytest.mark.parametrize("between", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_all_and_the_run_resumes(between, machines, straight):
    """SIGTERM to the process that does not write; then two processes end the run, or first one.

    It ends with the bits of one process that was not stopped. Of two, only the first writes and
    reports; the second says where it belongs, and nothing else. The signal comes before the first
    step, whose compilation takes longer than the agreement on the last one.
    """
    name = "moved" if between else "stopped"
    found = machines.ends_of_all(name, actions={1: ["step 1 SIGTERM"]})
    assert statuses(found) == [75, 75], found
    sentences = errors(found)
    assert sentences[0] == sentences[1]
    assert re.match(r"stopped in epoch \d after step \d; the state is saved", sentences[0][0])
    if between:
        [one] = machines.ends(machines.fit(name, "--virtual-devices=2", actions=["step 3 SIGTERM"]))
        assert one[0] == 75, one
    found = machines.ends_of_all(name)
    assert statuses(found) == [0, 0], found
    same_end(straight, machines.run(name))
    processes = machines.run(name).read_environment().processes
    assert [process.num_processes for process in processes] == ([2, 1, 2] if between else [2, 2])
    assert {len(process.devices) for process in processes} == {2}
    (_, out, err), (_, other_out, other_err) = found
    assert json.loads(out)["model.keras"]["count"] == 40
    assert "devices  jax" in err
    assert "on 2 cpus of 2 processes" in err
    assert other_out == ""
    assert re.search(r"^process 1 of 2 on \S+ joins \S+, and process 0 reports", other_err, re.M)
    assert not re.search("recipe|epoch|devices", other_err)
    assert not list(machines.run(name).path.glob(".shared*"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_the_same_command_resumes(machines, straight, killed):
    name = f"killed{killed}"
    found = machines.ends_of_all(name, actions={killed: ["step 6 SIGKILL"]})
    assert found[killed][0] == -9
    assert found[1 - killed][0] == 1, found
    [[sentence], []] = sorted(errors(found), reverse=True)
    assert re.search(r"was lost .* the same command on every machine resumes", sentence)
    assert statuses(machines.ends_of_all(name)) == [0, 0]
    same_end(straight, machines.run(name))


# --------------------------------------------------------------------------------------- mistakes


def check_refused(found, sentence, num_sentences=1):
    """Each process ends with status 2 and one sentence."""
    assert statuses(found) == [2] * len(found), found
    for (_, out, err), told in zip(found, errors(found), strict=True):
        assert len(told) == num_sentences, err
        assert re.search(sentence, told[0]), told
        assert not re.search("Traceback|stack trace", err), err
        assert out == ""


def test_processes_that_differ_are_refused_on_all(machines):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    both = [address, "--num-processes=2"]
    found = machines.ends(
        *[
            machines.fit("differ", *both, "--process-id=0"),
            machines.fit("differ", *both, "--process-id=1", "--set", "train.seed=1"),
        ]
    )
    check_refused(found, "same setting train.seed; received 0 in process 0 on .* and 1 in process")
    assert not machines.run("differ").path.exists()


@pytest.mark.slow
def test_stores_versions_and_numbers_of_devices_and_processes_that_differ(machines, tmp_path):
    from conftest import write_images

    other = write_images(tmp_path / "data", train=95)
    package = tmp_path / "packages" / "tensorflow_datasets-9.9.9.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: tensorflow-datasets\nVersion: 9.9.9\n")
    packages = os.pathsep.join([str(package.parent), str(ROOT)])
    cases = {
        "same train images of imagenet_resized/16x16": ([f"--data-dir={other}"], {}),
        "same number of devices; received 1 of 1 .* 2 of 2": (["--virtual-devices=2"], {}),
        "same number of processes; received 2 .* and 3": (["--num-processes=3"], {}),
        "same version of tensorflow-datasets; .* and 9.9.9": ([], {"PYTHONPATH": packages}),
    }
    for sentence, (options, environment) in cases.items():
        both = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2"]
        found = machines.ends(
            *[
                machines.fit("differ", *both, "--process-id=0"),
                machines.fit("differ", *both, "--process-id=1", *options, **environment),
            ]
        )
        check_refused(found, sentence)
        assert not machines.run("differ").path.exists()


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_refused_on_all(machines):
    both = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2"]
    found = machines.ends(
        *[
            machines.fit("here", *both, "--process-id=0"),
            machines.fit("there", *both, "--process-id=1", actions=["wait 5"]),
        ]
    )
    check_refused(found, r"the run folder \S+ is not shared: process 1 on .* does not see")
    assert not machines.run("here").path.exists() and not machines.run("there").path.exists()


@pytest.mark.slow
def test_processes_that_do_not_come(machines):
    address = f"127.0.0.1:{free_port()}"
    both = [f"--coordinator={address}", "--num-processes=2"]
    for number, sentence in enumerate(
        ["not all of the 2 processes have joined", f"process 0 cannot be reached at {address}"]
    ):
        option = f"--process-id={number}"
        check_refused(
            machines.ends(*[machines.fit("x", *both, option, actions=["wait 5"])]), sentence
        )
    assert not machines.run("x").path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0, 1, 1), (0, 0)])
def test_processes_with_the_same_number(machines, numbers):
    options = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=3"]
    found = machines.ends(
        *[machines.fit("x", *options, f"--process-id={number}") for number in numbers]
    )
    check_refused(found, "not all of the 3 processes|has the same number|cannot listen on port")
    assert not machines.run("x").path.exists()
