"""Checks before training that networks can be built and data opened, and finds the GPUs.

The check runs in a child process, which releases the GPUs when it ends. The child also packs a data
set that is not packed yet, for all runs.
"""

import json
import sys
from dataclasses import asdict, dataclass

from keras_imnet64.backend.devices import choose_backend, choose_indices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.processes import run_child
from keras_imnet64.core.progress_bars import PackingBar
from keras_imnet64.recipe.loading import check_recipe, parse_toml
from keras_imnet64.recipe.schema import Recipe


@dataclass(frozen=True)
class PreflightRequest:
    """The request to the child process.

    Attributes:
        recipes: TOML texts of recipes, of which each is checked.
        devices, virtual_devices: as for `take_devices`.
        data_dir, cache_dir: as for `fit`.
    """

    recipes: list[str]
    devices: str | None = None
    virtual_devices: int | None = None
    data_dir: str | None = None
    cache_dir: str | None = None

    @property
    def fit_options(self) -> list[str]:
        """The same as options of `fit`, but for the devices, which `shares` splits.

        Each child trains alone, whatever launcher has started its parent as one of several.
        """
        values = {
            "--num-processes": 1,
            "--data-dir": self.data_dir,
            "--cache-dir": self.cache_dir,
            "--virtual-devices": self.virtual_devices,
        }
        return [f"{option}={value}" for option, value in values.items() if value is not None]


@dataclass(frozen=True)
class PreflightReply:
    """The reply of the child process: GPUs to share, or the reason why nothing can be trained."""

    gpus: list[int]  # indices of the chosen GPUs among all; empty for the CPU
    error: str | None = None
    is_run_failure: bool = False  # whether the error is a RunFailed


def run_preflight(request: PreflightRequest) -> list[int]:
    """Checks in a child process that all recipes can be trained.

    Returns:
        The indices of the GPUs to share, empty for the CPU.

    Raises:
        UserError: a network cannot be built, its data cannot be opened, or the devices do not
            exist.
        RunFailed: the data could not be packed, or the child process failed.
    """
    child = run_child(
        "keras_imnet64.jobs.preflight",
        request=asdict(request),
        own_session=True,
        show_errors=True,
    )
    found = PreflightReply(**child.reply("the check before training"))
    if found.error:
        raise (RunFailed if found.is_run_failure else UserError)(found.error)
    return found.gpus


def reply_to(request: PreflightRequest) -> PreflightReply:
    """Runs the check, and returns the reply that the child process prints."""
    try:
        return PreflightReply(_check(request))
    except UserError as error:
        return PreflightReply([], str(error), isinstance(error, RunFailed))


def _check(request: PreflightRequest) -> list[int]:
    choose_backend()
    present = take_devices(None, request.virtual_devices)
    chosen: list[int] = choose_indices(request.devices, present.count, present.kind)
    from keras_imnet64.training.data import check_length, load_data, make_stream
    from keras_imnet64.training.setup import check_network

    for text in request.recipes:
        recipe: Recipe = check_recipe(parse_toml(text))
        with keras_defaults(), PackingBar() as progress:
            check_network(recipe)
            data = load_data(recipe, request.data_dir, request.cache_dir, progress)
            check_length(recipe, make_stream(recipe, data))
    return [] if present.kind == "cpu" else chosen


if __name__ == "__main__":
    silence_libraries()
    print(json.dumps(asdict(reply_to(PreflightRequest(**json.load(sys.stdin))))))
