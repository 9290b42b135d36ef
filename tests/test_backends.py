"""The tests marked `backend` once more, in one child process under JAX."""

from pathlib import Path

from conftest import child_under

TESTS = Path(__file__).parent


def test_backend_tests_pass_under_jax():
    marked = [file for file in TESTS.rglob("test_*.py") if "mark.backend" in file.read_text()]
    marked.remove(TESTS / "test_backends.py")
    status, output = child_under("jax", "-m", "backend and not slow", *sorted(marked))
    assert status == 0, output
    assert " passed" in output
