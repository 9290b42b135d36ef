"""The tests marked `backend` once more, in one child process under JAX."""

from conftest import child_under


def test_backend_tests_pass_under_jax():
    status, output = child_under("jax", "-m", "backend and not slow")
    assert status == 0, output
    assert " passed" in output
