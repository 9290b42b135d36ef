"""Tries backends and data sets in child processes, since loading either may crash a process."""

import os
import time
from importlib.util import find_spec

from keras_imnet64.backend.environment import without_refused
from keras_imnet64.backend.keras_settings import KerasSettings
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.processes import run_child
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.doctor.report import BackendTrial, DatasetState

CHILD = "keras_imnet64.doctor.child"
MAX_TRIAL_SECONDS = 120  # loading a backend from a slow network disk takes a while
MAX_ERROR_CHARACTERS = 300


def examine_backend(name: str, settings: KerasSettings) -> BackendTrial:
    """Tries whether a backend imports and computes, whichever backend keras.json names.

    Args:
        settings: the content of keras.json; the child process does not read a wrong file.
    """
    if find_spec(name) is None:
        return BackendTrial(installed=False)
    environment = without_refused(os.environ) | {
        "KERAS_BACKEND": name,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # leaves the memory to processes that train
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if settings.fault or not settings.exists:
        environment["KERAS_HOME"] = os.devnull  # Keras takes its defaults, and writes no file
    begin = time.perf_counter()
    with Activity(f"trying {name}", at_once=True):
        reports, error = _run_trial({"backend": name}, environment)
    found = {key: value for report in reports for key, value in report.items()}
    return BackendTrial(
        installed=True,
        imports="version" in found,
        computes=error is None,
        version=found.get("version"),
        devices=found.get("devices", []),
        seconds=round(time.perf_counter() - begin, 2),
        error=error,
    )


def examine_datasets(
    data_dir: StrPath | None = None, cache_dir: StrPath | None = None
) -> tuple[list[DatasetState], str | None]:
    """Returns the states of the data sets, and one line of error if the child process fails."""
    with Activity("looking at the data sets", at_once=True):
        reports, error = _run_trial(
            {
                "data_dir": str(data_dir) if data_dir else None,
                "cache_dir": str(cache_dir) if cache_dir else None,
            }
        )
    states = [DatasetState(**report["dataset"]) for report in reports if "dataset" in report]
    return states, error


def _run_trial(
    request: JsonObject, environment: dict[str, str] | None = None
) -> tuple[list[JsonObject], str | None]:
    """Returns what the child process reported, and one line of error if it failed."""
    result = run_child(CHILD, request=request, environment=environment, timeout=MAX_TRIAL_SECONDS)
    error = result.failure and result.failure[:MAX_ERROR_CHARACTERS]
    return list(result.objects()), error
