"""The private parts of JAX that several processes need, in one place.

`jax.distributed` joins the processes, and each of their clients of its coordination service can
store short texts that all of them read. JAX shows this store to its own modules only. A process
whose peers are lost is aborted by JAX without a word to Python. Tests check that all of this works.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

from keras_imnet64.backend.launchers import Place

HEARTBEAT_SECONDS = 20  # after which a silent process counts as lost
SHUTDOWN_SECONDS = 20
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
DIRECT_HOSTS = "no_grpc_proxy"  # gRPC reads it before `no_proxy`
_HANDLERS: list[Any] = []  # functions of ctypes, which the system calls as long as they exist


def connect(place: Place, address: str, seconds: int) -> None:
    """Joins the processes of a run; raises an error of JAX if not all come within `seconds`.

    Args:
        address: of process 0.
    """
    import jax

    # Its handler of SIGTERM would replace ours, which also handles Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    _connect_directly(address)
    jax.distributed.initialize(
        address,
        place.num_processes,
        place.process_id,
        local_device_ids=None if place.local_device is None else [place.local_device],
        cluster_detection_method="deactivate",
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def coordinator_of_launcher(place: Place) -> str:
    """Returns the address of process 0 that JAX derives from the variables of a launcher."""
    from jax._src.clusters import ClusterEnv

    address, *_ = ClusterEnv.auto_detect_unset_distributed_params(
        None, place.num_processes, place.process_id, [0], None, None
    )
    assert address is not None  # `find_place` has seen the launcher's variable
    return address


def _connect_directly(address: str) -> None:
    """Keeps gRPC from connecting to process 0 through a proxy of the internet."""
    host = address.rpartition(":")[0].strip("[]")
    others = os.environ.get(DIRECT_HOSTS, os.environ.get("no_proxy", ""))
    if any(os.environ.get(name) for name in PROXIES):
        os.environ[DIRECT_HOSTS] = ",".join(filter(None, (others, host)))


def call_before_abort(function: Callable[[], None]) -> None:
    """Calls a function, in a thread of JAX, when JAX aborts this process as another one is lost.

    JAX's own callback for this cannot be called from Python (jaxlib 0.10: std::bad_cast). What
    aborts is the thread that has heard of the loss, so that the handler of SIGABRT, which Python
    would only note, may run any code there.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: function())
    _HANDLERS.append(handler)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, type(handler)]
    library.signal(signal.SIGABRT, handler)


class SharedTexts:
    """Short texts by name that the processes of a run share, until they leave."""

    def __init__(self) -> None:
        from jax._src import distributed

        client = distributed.global_state.client
        assert client is not None  # `connect` has returned
        self._client = client

    def write(self, name: str, text: str) -> None:
        self._client.key_value_set(name, text, allow_overwrite=True)

    def read(self, name: str, seconds: float) -> str | None:
        """Waits for a text; returns None if there is none after some seconds."""
        import jax

        try:
            return str(self._client.blocking_key_value_get(name, round(1000 * seconds)))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise

    def folder(self, name: str) -> dict[str, str]:
        """Returns the texts whose names begin with "<name>/", by the rest of their names."""
        texts = self._client.key_value_dir_get(f"{name}/")
        return {key.rpartition("/")[2]: text for key, text in texts}

    def wait_for_all(self, name: str, seconds: float) -> None:
        """Waits until all processes have called this with the same name; raises an error of JAX."""
        self._client.wait_at_barrier(name, round(1000 * seconds))
