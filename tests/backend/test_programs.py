"""Compiled programs: where they are kept, that JAX finds them again, what does not end a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Forks

from keras_imnet64.backend import programs
from keras_imnet64.core.program_folder import program_files

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
import jax
import numpy
from keras_imnet64.backend.programs import keep_jax_programs
keep_jax_programs()
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)

@jax.jit
def step(weights, pixels):
    def loss(weights):
        maps = pixels
        for kernel in weights:
            maps = jax.numpy.tanh(jax.lax.conv(maps, kernel, (1, 1), "SAME"))
        return (maps ** 2).mean()
    return jax.grad(loss)(weights)

draw = numpy.random.default_rng(0).standard_normal
weights = [draw((8, 8, 3, 3), "float32") for _ in range(3)]
gradients = step(weights, draw((2, 8, 16, 16), "float32"))
print(len(hits), b"".join(g.tobytes() for g in map(jax.device_get, gradients)).hex())
"""


def variables(folder):
    mine = {n: v for n, v in os.environ.items() if not n.startswith(("JAX_", "KERAS_IMNET64"))}
    mine |= {programs.FOLDER: str(folder), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return mine | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module")
def compile_with():
    """compile_with(folder) -> (number of programs found, bits of what they computed, errors)."""
    imported = ("jax", "keras_imnet64.backend.programs")

    def compile_with(folder):
        environment = {programs.FOLDER: str(folder)}
        ((status, out, error),) = forks.run(
            {"arguments": [""], "code": CHILD, "environment": environment}
        )
        assert status == 0, error
        hits, bits = out.split()
        return int(hits), bits, error

    with Forks(*imported, environment=variables("off")) as forks:
        yield compile_with


@pytest.fixture
def clean_environment(monkeypatch):
    for name in (programs.FOLDER, programs.BOUND, programs.JAX_FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_jax_finds_its_programs_again_and_they_compute_the_same_bits(compile_with, tmp_path):
    hits, without, _ = compile_with("off")
    assert hits == 0
    folder = tmp_path / "programs"
    assert compile_with(folder)[:2] == (0, without)
    kept = [file.path for file in program_files(folder)]
    hits, bits, error = compile_with(folder)
    assert (hits, bits, error) == (len(kept), without, "")
    assert hits > 0

    for path in kept:  # damage
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert compile_with(folder)[:2] == (0, without)
    assert compile_with(folder)[:2] == (hits, without)


def test_a_folder_that_cannot_be_is_said_once_and_the_run_goes_on(compile_with, tmp_path):
    (tmp_path / "file").write_text("")
    hits, _, error = compile_with(tmp_path / "file" / "programs")
    assert hits == 0
    (line,) = error.splitlines()
    assert line.startswith("note: compiled programs are not kept (")
    assert programs.FOLDER in line


def test_a_folder_of_jax_itself_is_left_to_jax(tmp_path):
    """JAX reads the variable when it is imported."""
    of_jax, ours = tmp_path / "jax", tmp_path / "programs"
    environment = variables(ours) | {"JAX_COMPILATION_CACHE_DIR": str(of_jax)}
    subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True)
    assert list(of_jax.glob("*-cache"))
    assert not ours.exists()


def test_a_disk_that_is_full_is_said_once(tmp_path, capsys, monkeypatch):
    def full(self, name, program):
        raise OSError(28, "No space left on device")

    kept = programs.JaxPrograms(programs.ProgramFolder(tmp_path, "machine", 1000))
    monkeypatch.setattr(programs.ProgramFolder, "put", full)
    for number in range(3):
        kept.put(f"{number}", b"code")
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has ~/Library/Caches")
def test_the_folder_is_where_the_platform_keeps_caches(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert programs.program_settings().folder == Path("/home/me/.cache/keras_imnet64/programs")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/me")
    assert programs.program_settings().folder == Path("/scratch/me/keras_imnet64/programs")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    assert programs.program_settings().folder == Path("/home/me/.cache/keras_imnet64/programs")


@pytest.mark.usefixtures("clean_environment")
def test_variables_choose_the_folder_and_its_bound(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(programs.FOLDER, "~/here")
    monkeypatch.setenv(programs.BOUND, "5")
    found = programs.program_settings()
    assert (found.folder, found.max_bytes) == (Path("/home/me/here"), 5_000_000)
    monkeypatch.setenv(programs.FOLDER, "OFF")
    assert programs.program_settings().folder is None
    monkeypatch.delenv(programs.FOLDER)
    monkeypatch.setenv(programs.JAX_FOLDER, "/jax")
    assert programs.program_settings().folder is None


@pytest.mark.skipif(sys.platform == "darwin", reason="processors are told apart by /proc/cpuinfo")
def test_programs_of_another_processor_or_other_threads_are_not_used(tmp_path, monkeypatch):
    own = programs.machine_name()
    assert own == programs.machine_name()
    with monkeypatch.context() as patch:
        patch.setenv("NPROC", "77")
        assert programs.machine_name() != own
    text = programs.CPU_INFO.read_text()
    other = text.replace("sse2", "sse2 amx_tile").replace("asimd", "asimd sve2")
    assert other != text
    monkeypatch.setattr(programs, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert programs.machine_name() == own
    (tmp_path / "cpuinfo").write_text(other)
    assert programs.machine_name() != own


def test_clean_removes_the_programs_and_nothing_else(tmp_path, monkeypatch, run):
    monkeypatch.setenv(programs.FOLDER, str(tmp_path / "programs"))
    assert json.loads(run("programs", "clean", "--json")[1])["programs"] == 0  # no folder yet
    for machine in ("one", "two"):
        kept = programs.ProgramFolder(tmp_path / "programs", machine, 1000)
        kept.make()
        kept.put("step", b"0" * 68)
    (kept.folder / "notes.txt").write_text("mine")
    status, out, _ = run("programs", "clean", "--dry-run", "--json")
    found = json.loads(out)
    assert (status, found["programs"], found["bytes"]) == (0, 2, 200)
    assert kept.get("step") is not None
    assert json.loads(run("programs", "clean", "--json")[1])["programs"] == 2
    left = [path.name for path in (tmp_path / "programs").rglob("*")]
    assert sorted(left) == ["notes.txt", "two"]
