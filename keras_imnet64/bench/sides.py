"""The sides of a comparison: a worker for each of our backends and dtypes, and PyTorch's peer."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from keras_imnet64.backend.devices import check_installed
from keras_imnet64.backend.environment import check_environment
from keras_imnet64.backend.keras_settings import check_keras_json
from keras_imnet64.backend.loading import chosen_backend
from keras_imnet64.bench.record import Subject
from keras_imnet64.bench.rounds import Side
from keras_imnet64.bench.worker_request import Request
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.processes import module_command
from keras_imnet64.core.types import StrPath
from keras_imnet64.recipe.schema import Recipe

PEER = Path(__file__).parents[2] / "benchmarks" / "torch_peer.py"
PEER_MODES = ("eager", "compile")  # see benchmarks/torch_peer.py
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # workers share a GPU
    "KERAS_IMNET64_PROGRAMS_DIR": "off",  # the first step compiles
}
DTYPES = ("float32", "mixed_bfloat16")


def checked_backends(names: Sequence[str]) -> list[str]:
    """Returns the backends to measure, each once; the one that is chosen where none is named."""
    check_keras_json()
    names = list(dict.fromkeys(names)) or [chosen_backend()]
    for name in names:
        if name == "torch":
            raise UserError(
                "bench measures training, which torch is not for; use --backend tensorflow,jax; "
                "--peer measures PyTorch's own step"
            )
        check_installed(name)
        check_environment(name)
    return names


def with_dtypes(recipe: Recipe, dtypes: Sequence[str]) -> list[Recipe]:
    """Returns the recipe under each dtype once; under its own where none is named."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UserError(f'--dtype "{dtype}" is not known; {nearest(dtype, DTYPES)}')
    return [
        recipe.model_copy(update={"train": recipe.train.model_copy(update={"dtype": dtype})})
        for dtype in dict.fromkeys(dtypes or [recipe.train.dtype])
    ]


def our_sides(
    recipes: Sequence[Recipe],
    backends: Sequence[str],
    has_images: bool,
    devices: str | None,
    data_dir: StrPath | None,
    cache_dir: StrPath | None,
) -> list[Side]:
    """Returns a side for each backend and recipe; see `worker_request.Request`."""
    folders = [str(folder) if folder else None for folder in (data_dir, cache_dir)]
    return [
        Side(
            backend,
            recipe.train.dtype,
            module_command("keras_imnet64.bench.worker", ()),
            asdict(Request(recipe.to_toml(), has_images, devices, *folders)),
            ENVIRONMENT | {"KERAS_BACKEND": backend},
        )
        for recipe in recipes
        for backend in backends
    ]


def check_peer(devices: str | None) -> None:
    """Refuses what PyTorch's peer cannot be compared with, and a machine without it."""
    if devices not in (None, "1"):
        raise UserError(
            f"--peer compares one device, the first: use --devices 1; received --devices {devices}"
        )
    if not PEER.is_file():
        raise UserError(
            "--peer needs a checkout of the repository, whose benchmarks/torch_peer.py is not part "
            "of the installed package: run `python cli.py bench` there"
        )
    if find_spec("torch") is None:
        raise UserError("--peer needs PyTorch, which is not installed: `pip install torch`")


def peers(
    recipes: Sequence[Recipe],
    subject: Subject,
    folder: Path,
    modes: Sequence[str] = PEER_MODES,
    program: Path | None = None,
) -> list[Side]:
    """Returns a side for each mode of PyTorch and recipe, whose TOML files it writes into a folder.

    Its lines are those of our workers, but it makes no steps before those that it times.

    Args:
        program: where `torch_peer.py` lies if this package is not that of the checkout.
    """
    sides = []
    for recipe in recipes:
        dtype = recipe.train.dtype
        file = folder / f"{dtype}.toml"
        file.write_text(recipe.to_toml(), "utf-8")
        for mode in modes:
            options = {
                "recipe": file,
                "batch-size": subject.batch_size,
                "dtype": dtype,
                "mode": mode,
                "image-size": subject.image_size,
                "num-classes": subject.num_classes,
            }
            command = [sys.executable, str(program or PEER)]
            command += [f"--{name}={value}" for name, value in options.items()]
            own = {"TMPDIR": str(folder)}  # where compiled programs end with the folder
            sides.append(Side(f"torch {mode}", dtype, command, None, own, True, warms_up=False))
    return sides
