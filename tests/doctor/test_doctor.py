"""The doctor: one real examination, then each thing that can be wrong, made so on purpose."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import first_steps as steps
import pytest
from class_folders import indexed
from conftest import write_images

from keras_imnet64 import doctor
from keras_imnet64.backend.keras_settings import KerasSettings, keras_settings
from keras_imnet64.backend.programs import FOLDER
from keras_imnet64.core import machine_limits
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.program_folder import ProgramFolder
from keras_imnet64.data.datasets import DATASETS, open_dataset
from keras_imnet64.data.stores import raw
from keras_imnet64.doctor import examine, facts, lines, trials
from keras_imnet64.doctor.problems import problems_of
from keras_imnet64.doctor.report import BackendTrial, Gpu, Machine, Problem

ROOT = Path(__file__).parents[2]
GPU_SMI = "#!/bin/sh\necho '143771, NVIDIA H200'\necho '143771, NVIDIA H200'\n"
H200 = Gpu("NVIDIA H200", 143771 * 2**20)
ROOMY = Machine(
    cpu_cores=2,
    memory_bytes=8 * 10**9,
    memory_available_bytes=2 * 10**9,
    gpus=[],
    gpu_error=None,
)
ABSENT = KerasSettings(Path("/home/me/.keras/keras.json"), False, {}, None)


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """A real report, on an empty data folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", FOLDER):
            patch.delenv(name, raising=False)
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("home") / "none"))
        return examine(data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture
def problems(examined):
    """problems(disk=..., ...) of the real report on a roomy machine, with these facts instead."""

    def find(**changes):
        return problems_of(replace(examined, **({"machine": ROOMY, "disk": []} | changes)))

    return find


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(name, text): a program of this name comes first in PATH."""

    def write(name, text):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent), prepend=":")

    return write


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(name, source): a module of this name is what processes import that start from now."""

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


def the_only(problems):
    (problem,) = problems
    return problem.what, problem.mend


def with_backends(report, **trials):
    """The backends of a report, some of them replaced."""
    return report.backends | trials


# ------------------------------------------------------------------------------- a real examination


def test_both_backends_compute_here(examined):
    for name in ("tensorflow", "jax"):
        trial = examined.backends[name]
        assert trial.error is None and trial.imports and trial.computes
        assert trial.version == metadata.version(name)
        assert trial.devices[0].lower().startswith(("cpu:0", "gpu:0"))
        assert trial.seconds > 0


def test_the_first_steps_show_every_line_that_is_printed(examined, run, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda **_: examined)
    status, out, _ = run("doctor")
    assert status == 0
    shown = steps.transcript(steps.PAGE.read_text())[steps.DOCTOR]
    assert steps.keys(shown) == steps.keys(out)


def test_the_report_is_json_and_names_what_a_bug_report_needs(examined):
    content = examined.to_json()
    assert json.loads(json.dumps(content)) == content
    versions = content["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["keras"] == metadata.version("keras")
    required = [r for r in metadata.requires("keras-imnet64") if "extra ==" not in r]
    assert all(any(r.startswith(name) for name in versions) for r in required)
    assert {"keras-imnet64", "torch"} <= set(versions)
    assert (content["chosen_backend"], content["chosen_by"]) == ("tensorflow", "default")
    assert content["machine"]["cpu_cores"] >= 1
    assert content["machine"]["memory_bytes"] > content["machine"]["memory_available_bytes"] > 0
    assert [row["what"] for row in content["disk"]] == ["data", "runs", "temporary files"]
    assert all(row["writable"] and row["free_bytes"] > 0 for row in content["disk"])


def test_the_keys_of_the_json_stay_as_programs_know_them(examined):
    torch = BackendTrial(installed=False)
    machine = replace(ROOMY, gpus=[H200])
    problem = Problem("no disk", "buy one")
    report = replace(examined, machine=machine, problems=[problem])
    content = replace(report, backends=with_backends(examined, torch=torch)).to_json()
    assert list(content) == [
        *("versions", "unmet_requirements", "keras_json", "chosen_backend", "chosen_by"),
        *("refused_settings", "backends", "machine", "disk", "programs", "datasets"),
        *("datasets_error", "problems"),
    ]
    settings = {"backend", "floatx", "epsilon", "image_data_format", "nnx_enabled"}
    assert settings | {"path", "exists", "fault"} == set(content["keras_json"])
    assert content["backends"]["torch"] == {"installed": False}
    assert set(content["backends"]["jax"]) == {
        *("installed", "imports", "computes", "version", "devices", "seconds", "error")
    }
    assert content["machine"]["gpus"] == [{"name": "NVIDIA H200", "memory_bytes": 143771 * 2**20}]
    assert set(content["disk"][0]) == {"what", "path", "mount", "free_bytes", "writable"}
    assert set(content["datasets"][0]) == {
        *("name", "prepare", "state", "splits", "verified", "bytes", "location", "problem")
    }
    assert content["problems"] == [{"what": "no disk", "mend": "buy one"}]


def test_every_data_set_has_a_row_with_the_command_that_prepares_it(examined):
    rows = {row.name: row for row in examined.datasets}
    assert list(rows) == list(DATASETS)
    place = examined.disk[0].path
    for name, row in rows.items():
        assert (row.state, row.problem, row.bytes) == ("not prepared", None, 0)
        assert row.prepare.startswith(f"python cli.py data prepare {name} ")
        assert row.prepare.endswith(f"--data-dir {place}")
        assert ("--source" in row.prepare) == (not DATASETS[name].embedded)


def test_data_sets_of_ones_own_are_found(tmp_path):
    indexed(tmp_path)
    (tmp_path / "data" / "packed" / "image_folder_half").mkdir()
    rows = {row.name: row for row in trials.examine_datasets(str(tmp_path / "data"), None)[0]}
    assert rows.keys() == DATASETS.keys() | {"image_folder/toy"}
    assert rows["image_folder/toy"].state == "packed"
    with pytest.raises(UserError, match=r"petz is not prepared .*prepared are image_folder/toy\)"):
        open_dataset("image_folder/petz", "train", data_dir=tmp_path / "data")


def test_what_is_optional_is_no_problem(problems, examined):
    assert {row.state for row in examined.datasets} == {"not prepared"}
    assert problems(backends=with_backends(examined, torch=BackendTrial(installed=False))) == []


def test_nothing_is_left_in_the_data_folder_or_in_the_home_of_keras(examined):
    assert list(Path(examined.disk[0].path).iterdir()) == []
    assert not examined.keras_json.path.parent.exists()


# ------------------------------------------------------------------------------------ installation


def test_an_old_version_is_named_with_what_is_needed(problems, tmp_path, monkeypatch):
    (tmp_path / "click-1.0.dist-info").mkdir()
    (tmp_path / "click-1.0.dist-info" / "METADATA").write_text("Name: click\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert facts.versions()["click"] == "1.0"
    what, mend = the_only(problems(unmet_requirements=facts.unmet_requirements()))
    assert what == "click: >=8.1 is needed, 1.0 is installed"
    assert mend == "pip install -c constraints.txt 'click>=8.1'"


@pytest.mark.parametrize("missing", ["pydantic", "numpy", "PIL", "keras"])
def test_an_installation_that_lacks_a_distribution_can_be_examined(missing):
    code = f"import sys; sys.modules['{missing}'] = None; import keras_imnet64.doctor"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_missing_distribution_is_named(problems, monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("safetensors", "torch", "ruff"):  # the last two are extras
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    what, mend = the_only(problems(unmet_requirements=facts.unmet_requirements()))
    assert what == "safetensors: >=0.5 is needed, it is not installed"
    assert mend.endswith("'safetensors>=0.5'")


def test_an_installation_without_metadata_is_said(problems, monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert facts.versions()["keras"]
    what, _ = the_only(problems(unmet_requirements=facts.unmet_requirements()))
    assert "keras-imnet64 is not installed here" in what


# -------------------------------------------------------------------------------- choice of backend


def test_an_unknown_backend_in_the_environment(problems, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jaxx")
    name, by = facts.chosen_backend(keras_settings())
    what, mend = the_only(problems(chosen_backend=name, chosen_by=by))
    assert what == 'KERAS_BACKEND names the backend "jaxx", which is not known; did you mean "jax"?'
    assert mend == "export KERAS_BACKEND=jax"


@pytest.mark.parametrize(
    ("text", "what", "mend"),
    [
        ('{"backend": "tensorflw"}', 'which is not known; did you mean "tensorflow"?', "set "),
        ('{"backend": "torch"}', "names the backend torch, which is not installed", "[torch]"),
        ('{"backend": ', "does not work for Keras: Expecting value", "mv "),
        ('["jax"]', "does not work for Keras: it is not a JSON object", "mv "),
        ("[" * 100_000, "nested too deeply", "mv "),
        ('{"image_data_format": "channels"}', 'must be "channels_last"', "mv "),
        ('{"nnx_enabled": true}', '"nnx_enabled" must be false', "mv "),
        ('{"floatx": "bfloat16"}', 'received "bfloat16"', "mv "),
        ('{"epsilon": 1}', '"epsilon" must be', "mv "),
    ],
)
def test_a_keras_json_that_is_wrong(problems, examined, monkeypatch, tmp_path, text, what, mend):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(text)
    keras_json = keras_settings()
    chosen, by = facts.chosen_backend(keras_json)
    backends = with_backends(examined, torch=BackendTrial(installed=False))
    changes = {"keras_json": keras_json, "chosen_backend": chosen, "chosen_by": by}
    found = the_only(problems(**changes, backends=backends))
    assert what in found[0] and str(tmp_path / "keras.json") in found[0]
    assert mend in found[1]


def test_backends_are_tried_without_a_keras_json_that_is_wrong(monkeypatch, tmp_path):
    """Else a backend would seem not to compute, and to need another installation."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16"}')
    trial = trials.examine_backend("jax", keras_settings())
    assert trial.computes and trial.error is None


def test_a_keras_json_that_is_right_and_one_that_the_environment_overrules(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text('{"backend": "jax", "image_data_format": "channels_last"}')
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    found = keras_settings()
    assert facts.chosen_backend(found) == ("jax", str(tmp_path / "keras.json"))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert facts.chosen_backend(found) == ("tensorflow", "KERAS_BACKEND")


def test_variables_that_commands_refuse(problems, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    what, mend = the_only(problems(refused_settings=facts.refused_settings()))
    assert "JAX_ENABLE_X64 computes in float64" in what and mend == "`unset JAX_ENABLE_X64`"


def test_a_kind_of_device_that_is_not_here(problems, examined, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    jax = replace(examined.backends["jax"], computes=False, devices=[], error="AssertionError")
    _, mend = the_only(problems(backends=with_backends(examined, jax=jax)))
    assert mend == "unset JAX_PLATFORMS"


# ---------------------------------------------------------------------------------------- backends


# As TensorFlow says it: the reason stands inside, advice comes last.
NESTED = "Traceback (most recent call last):\nImportError: no libcudart\n\nSee the manual.\nAsk us."


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import os; os.kill(os.getpid(), 11)", "does not import: it was ended by signal 11"),
        (f"raise ImportError({NESTED!r})", "does not import: ImportError: no libcudart"),
        ("raise SystemExit(3)", "does not import: it ended with status 3"),
    ],
)
def test_a_backend_that_does_not_import(problems, examined, module, source, what):
    module("jax", source)
    jax = trials.examine_backend("jax", ABSENT)
    found, mend = the_only(problems(backends=with_backends(examined, jax=jax)))
    assert found.startswith(f"jax {what}")
    assert mend == "pip install -c constraints.txt --force-reinstall jax"
    assert any("fails: " in line for line in lines(replace(examined, backends={"jax": jax})))


def test_a_backend_that_hangs(problems, examined, module, monkeypatch):
    monkeypatch.setattr(trials, "MAX_TRIAL_SECONDS", 0.5)
    module("jax", "import time; time.sleep(60)")
    jax = trials.examine_backend("jax", ABSENT)
    assert jax.error == "no answer within 0.5 seconds"
    _, mend = the_only(problems(backends=with_backends(examined, jax=jax)))
    assert mend == "run this again when the machine is less busy: python cli.py doctor"


IMPORTS = "import os; __version__ = '0'; "
FULL = "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
BUSY = "InternalError: CUDA_ERROR_DEVICE_UNAVAILABLE: all devices are busy or unavailable"


@pytest.mark.parametrize(
    ("source", "what", "mend"),
    [
        (
            "",
            "AttributeError: module 'jax'",
            "read the whole message: KERAS_BACKEND=jax python -c ",
        ),
        (
            "local_devices = lambda: os.kill(os.getpid(), 11)",
            "by signal 11",
            "run this again when ",
        ),
        ("local_devices = lambda: os.kill(os.getpid(), 9)", "by signal 9", "end other programs"),
        (f"local_devices = lambda: exit({FULL!r})", "Out of memory", "end other programs"),
    ],
)
def test_a_backend_that_imports_and_fails_is_not_reinstalled(
    problems, examined, module, source, what, mend
):
    module("jax", IMPORTS + source)
    jax = trials.examine_backend("jax", ABSENT)
    found, advice = the_only(problems(backends=with_backends(examined, jax=jax)))
    assert found.startswith("jax imports but does not compute: ") and what in found
    assert advice.startswith(mend) and "pip install" not in advice


@pytest.mark.parametrize("error", [FULL, BUSY, "it was ended by signal 9 (Killed)"])
@pytest.mark.parametrize("imports", [True, False])
def test_a_gpu_that_others_hold_is_theirs_to_give_back(problems, examined, error, imports):
    jax = replace(examined.backends["jax"], computes=False, imports=imports, error=error)
    tensorflow = replace(examined.backends["tensorflow"], devices=["GPU:0"])
    found = problems(
        machine=replace(ROOMY, gpus=[H200]), backends={"tensorflow": tensorflow, "jax": jax}
    )
    _, mend = the_only(found)
    assert "nvidia-smi lists them" in mend and "CUDA_VISIBLE_DEVICES" in mend


def test_a_wrong_result_is_seen(module):
    module(
        "keras",
        "import numpy\n"
        "class ops: convert_to_numpy = staticmethod(lambda x: x)\n"
        "class layers: Conv2D = lambda *_, **__: lambda x: numpy.full((1, 2, 2, 2), 26.0)\n",
    )
    jax = trials.examine_backend("jax", ABSENT)
    assert jax.imports and not jax.computes
    assert "instead of 27" in jax.error


def test_a_backend_that_is_not_installed_is_not_tried(monkeypatch):
    monkeypatch.setattr(trials, "find_spec", lambda name: None)
    assert trials.examine_backend("torch", ABSENT) == BackendTrial(installed=False)


# ----------------------------------------------------------------------------------------- machine


@pytest.fixture
def on_cpu(examined):
    return {
        name: replace(trial, devices=["CPU:0"] if trial.installed else [])
        for name, trial in examined.backends.items()
    }


def test_gpus_that_the_driver_has_and_the_backends_have_not(problems, on_cpu, program, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program("nvidia-smi", GPU_SMI)
    machine = facts.machine()
    assert (machine.gpus, machine.gpu_error) == ([H200, H200], None)
    found = problems(machine=machine, backends=on_cpu)
    assert [problem.what for problem in found[:2]] == [
        "tensorflow sees no GPU, the driver sees 2 (NVIDIA H200)",
        "jax sees no GPU, the driver sees 2 (NVIDIA H200)",
    ]
    assert {problem.mend for problem in found} == {"pip install -c constraints.txt '.[gpu]'"}
    devices = {"tensorflow": ["CPU:0", "GPU:0 NVIDIA H200"], "jax": ["gpu:0 NVIDIA H200"]}
    on_gpu = {name: replace(on_cpu[name], devices=devices[name]) for name in devices}
    assert problems(machine=machine, backends=on_cpu | on_gpu) == []


def test_gpus_that_the_environment_hides(problems, on_cpu, monkeypatch):
    machine = replace(ROOMY, gpus=[Gpu("NVIDIA H200", None)])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    mends = [problem.mend for problem in problems(machine=machine, backends=on_cpu)]
    assert mends == ["pip install -c constraints.txt '.[gpu]'", "unset JAX_PLATFORMS"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    mends = {problem.mend for problem in problems(machine=machine, backends=on_cpu)}
    assert mends == {"unset CUDA_VISIBLE_DEVICES"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n", "version mismatch"),
        ("#!/bin/sh\nexec sleep 60\n", "no answer within 0.2 seconds"),
        ("no program at all", "nvidia-smi"),
    ],
)
def test_a_driver_that_fails_is_a_problem_where_there_is_a_gpu(
    problems, program, monkeypatch, text, said
):
    monkeypatch.setattr(facts, "DRIVER_SECONDS", 0.2)
    program("nvidia-smi", text)
    machine = facts.machine()
    assert machine.gpus == [] and said in machine.gpu_error
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    assert problems(machine=machine) == []
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/nvidia0"])
    what, mend = the_only(problems(machine=machine))
    assert said in what and "driver" in mend


def test_what_a_control_group_grants(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_limits, "_control_groups", lambda: [tmp_path, tmp_path / "none"])
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in {
        "cpu.max": "250000 100000\n",
        "memory.max": f"{3 * 10**8}\n",
        "memory.current": f"{2 * 10**8}\n",
        "memory.stat": f"anon 5\ninactive_file {10**8}\n",
    }.items():
        (tmp_path / name).write_text(text)
    machine = facts.machine()
    assert machine.cpu_cores == 3
    assert machine.memory_bytes == 3 * 10**8
    assert machine.memory_available_bytes == 2 * 10**8
    assert raw._fits_in_memory(5 * 10**7 - 1) and not raw._fits_in_memory(5 * 10**7)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    machine = facts.machine()
    assert machine.cpu_cores == 8 and machine.memory_bytes > 3 * 10**8


def test_little_memory(problems):
    machine = replace(ROOMY, memory_available_bytes=19 * 10**8)
    what, _ = the_only(problems(machine=machine))
    assert what.startswith("1.9 GB of memory are available")


# ---------------------------------------------------------------------------------- disk and data


def test_folders_that_cannot_be_written(problems, tmp_path):
    (tmp_path / "file").write_text("")
    data = tmp_path / "file" / "data"
    what, mend = the_only(problems(disk=facts.disk(data)))
    assert what == f"the folder for data, {data}, cannot be written"
    assert "--data-dir or TFDS_DATA_DIR" in mend
    assert problems(disk=facts.disk(data, tmp_path / "cache")) == []  # data need only be read
    what, mend = the_only(problems(disk=facts.disk(tmp_path, data)))
    assert "the folder for cache" in what and "--cache-dir" in mend
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_land_in_saved_models_which_must_be_writable(problems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert problems(disk=facts.disk(tmp_path)) == []  # it is made in a folder that can be written
    (tmp_path / "saved_models").write_text("in the way")
    what, mend = the_only(problems(disk=facts.disk(tmp_path)))
    assert what == f"the folder for runs, {tmp_path}/saved_models, cannot be written"
    assert "fit --out" in mend


def test_little_room_is_said_once_per_disk(problems, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr(facts.shutil, "disk_usage", lambda folder: usage)
    rows = facts.disk(tmp_path / "data", tmp_path / "cache")
    assert len(rows) == 4
    found = problems(disk=rows)
    assert len(found) == len({row.mount for row in rows})
    assert found[0].what.startswith("0.0 GB are free on the disk of /")


@pytest.mark.parametrize(("free", "is_enough"), [(10**9, True), (10**9 - 1, False)])
def test_a_gigabyte_is_room_enough(free, is_enough, problems, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(facts.shutil, "disk_usage", lambda folder: usage)
    found = problems(disk=facts.disk(tmp_path / "data"))
    assert (found == []) == is_enough


def test_a_truncated_store_is_a_problem_and_the_other_sets_are_examined(problems, tmp_path):
    write_images(tmp_path, 16)
    write_images(tmp_path, 8)
    images = tmp_path / "packed" / "imagenet_resized_16x16-unverified" / "train" / "images.npy"
    images.write_bytes(images.read_bytes()[:-100])
    rows, error = trials.examine_datasets(tmp_path)
    assert error is None
    states = {row.name: row.state for row in rows if row.state != "not prepared"}
    assert states == {"imagenet_resized/16x16": "damaged", "imagenet_resized/8x8": "packed"}
    what, mend = the_only(problems(datasets=rows))
    assert what.startswith(f"data set imagenet_resized/16x16: {images} has ")
    command = "delete that folder, then python cli.py data prepare imagenet_resized/16x16 --source"
    assert mend.startswith(command) and str(tmp_path) in mend


def test_a_data_set_that_needs_a_tensorflow_that_does_not_load(problems, module, tmp_path):
    (tmp_path / "imagenet_resized" / "16x16").mkdir(parents=True)
    module("tensorflow", "raise ImportError('no libcudart')")
    rows, _ = trials.examine_datasets(tmp_path)
    what, _ = the_only(problems(datasets=rows))
    assert what == "data set imagenet_resized/16x16: ImportError: no libcudart"


def test_a_data_set_that_is_half_there(problems, tmp_path):
    packed = write_images(tmp_path / "data", 16) / "packed"
    (packed / "imagenet_resized_16x16-unverified").rename(packed / "imagenet_resized_16x16")
    shutil.rmtree(packed / "imagenet_resized_16x16" / "validation")
    rows, _ = trials.examine_datasets(tmp_path / "data")
    what, mend = the_only(problems(datasets=rows))
    assert what.startswith(f"data set imagenet_resized/16x16: a part of it lies in {tmp_path}/data")
    assert "python cli.py data prepare imagenet_resized/16x16 --source DIR" in mend


def test_a_table_of_data_sets_that_does_not_load(problems, module):
    module("numpy", "raise ImportError('numpy is broken')")
    rows, error = trials.examine_datasets()
    what, _ = the_only(problems(datasets=rows, datasets_error=error))
    assert what == "the data sets could not be examined: ImportError: numpy is broken"


# ------------------------------------------------------------------------------- compiled programs


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of compiled programs, that is ours, with one of 1,032 bytes."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("KERAS_IMNET64_PROGRAMS_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("KERAS_IMNET64_PROGRAMS_MB", "2000")
    folder = ProgramFolder(tmp_path / "programs", "machine", 2 * 10**9)
    folder.make()
    folder.put("step", b"0" * 1000)
    return folder


def test_the_folder_of_programs_its_size_and_bound(examined, problems, programs):
    found = facts.programs()
    assert (found.bytes, found.max_bytes, found.error) == (1032, 2 * 10**9, None)
    assert problems(programs=found) == []
    text = "\n".join(lines(replace(examined, programs=found)))
    assert f"0.0 GB of at most 2.0 GB, by KERAS_IMNET64_PROGRAMS_DIR: {programs.root}" in text


def test_a_folder_of_programs_that_is_not_used(problems, programs, monkeypatch):
    programs.root.chmod(0o777)
    what, mend = the_only(problems(programs=facts.programs()))
    assert "compiled programs are not kept: other users may write into" in what
    assert "KERAS_IMNET64_PROGRAMS_DIR" in mend
    monkeypatch.setenv("KERAS_IMNET64_PROGRAMS_MB", "lots")
    what, _ = the_only(problems(programs=facts.programs()))
    assert 'received "lots"' in what


def test_programs_that_jax_keeps_itself(examined, problems, programs, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/jax")
    found = facts.programs()
    assert problems(programs=found) == []
    text = lines(replace(examined, programs=found))
    assert "  not kept here, by JAX_COMPILATION_CACHE_DIR" in text


# ------------------------------------------------------------------------------------------- lines


def test_lines_have_headings_and_end_with_the_problems(examined):
    text = lines(replace(examined, problems=[]))
    headings = [line for line in text if line and not line.startswith(" ")]
    facts_first = ["Versions", "Backends", "Machine", "Disk", "Compiled programs", "Data sets"]
    assert headings == [*facts_first, "Problems"]
    assert text[-2:] == ["Problems", "  nothing is wrong"]
    problem = Problem("jax does not import: boom", "pip install jax")
    text = lines(replace(examined, problems=[problem]))
    assert text[-2:] == ["  jax does not import: boom", "    to fix it: pip install jax"]


def test_lines_show_a_data_set_that_is_packed(examined, tmp_path):
    rows, _ = trials.examine_datasets(write_images(tmp_path, 16))
    (line,) = [row for row in lines(replace(examined, datasets=rows)) if "16x16 " in row[:30]]
    assert "packed, unverified, 96 train, 40 validation, " in line and str(tmp_path) in line


def test_lines_cannot_be_forged(examined):
    problem = Problem("a\n\x1b[31mProblems", "b\r")
    text = lines(replace(examined, problems=[problem]))
    assert all(line.isprintable() for line in text)
    assert text[-2:] == [r"  a\n\x1b[31mProblems", r"    to fix it: b\r"]
