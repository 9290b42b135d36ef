"""The tests marked `backend` once more, in one child process under JAX."""

from conftest import child_under


def test_backend_tests_pass_under_jax():
    """Two processes take its files, so that it does not end long after all else."""
    status, output = child_under("jax", "-m", "backend and not slow", workers=2)
    assert status == 0, output
    assert " passed" in output
