"""Measures training steps on the GPUs of this machine, and prints a Markdown table.

    pip install ".[gpu]" && python benchmarks/gpu.py        # hours; --quick takes a part of that
    python benchmarks/gpu.py --reduced                      # minutes on a CPU, to try the script

Each row is a network, an engine (TensorFlow without and with XLA, JAX, and PyTorch where it is
installed), a batch size per device and a number of devices, in a process of its own: a crash or a
lack of memory ends that row alone. Batch sizes double until memory runs out, which is a row too.
Several devices are tried at the largest batch that one device takes, and at smaller ones where that
is too much. Rows are appended to a file as they come, and the same command goes on where it was.

    images/s           the compiled step of `Model.fit` on a batch that lies on the device
    TFLOP/s, of peak   6 per multiply-accumulate (2, times 3 for forward and backward pass), against
                       the best rate of bfloat16 products of matrices, measured in the same run;
                       empty with --dtype float32
    fed by pipeline    `Model.fit` on generated images with the recipe's augmentation
    beside the step    the share of time that input and Keras' loop add, from alternating blocks
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click
from gpu_records import MATRIX_PRODUCT, Header, Request, Row, Settings
from gpu_table import images_per_second, markdown

from keras_imnet64.bench import subject_of, this_machine
from keras_imnet64.bench.rounds import Conversation, Side
from keras_imnet64.bench.sides import peers
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import EXIT_STOPPED_AT_ONCE, RunFailed, UserError, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import parse_record, to_json
from keras_imnet64.recipe.loading import check_recipe, load_recipe, override
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.memory import is_out_of_memory

HERE = Path(__file__).parent
PEER = HERE / "torch_peer.py"
PEERS = ("torch-eager", "torch-compile")  # on a GPU its mode "tuned" is "compile"
XLA = {"tensorflow": "off", "tensorflow+xla": "on", "jax": "auto"}  # {engine: train.xla}
ENGINES = (*XLA, *PEERS)
BATCH_SIZES = (128, 256, 512, 1024, 2048)
# {network: (recipe, changes)}. The normalisation is ImageNet's, because there are no images to
# measure; nothing else of a step depends on it.
NETWORKS: dict[str, tuple[str, dict[str, JsonObject]]]
NETWORKS = {
    "wrn36_5": ("wrn36_5", {}),
    "resnet50": (  # stem "small" with the optimizer of giung2-jax
        "wrn36_5",
        {
            "model": {"name": "resnet50", "stem": "small"},
            "data": {"mirror": "random"},
            "loss": {"l2": 2.5e-4, "l2_of": "all"},
            "optimizer": {"nesterov": True},
        },
    ),
    "wide_resnet50_2": ("wide_resnet50_2_64", {}),
    "davit_tiny": ("davit_tiny_64", {}),
    "tiny": (  # for trying the script
        "wrn36_5",
        {
            "model": {"depth": 8, "width": 0.5},
            "data": {"dataset": "imagenet_resized/16x16"},
        },
    ),
}
MAX_AHEAD = 64  # batches that the pipeline prepares ahead
MAX_STEPS = 500  # of a block
NO_GPU_FOR_TORCH = "torch finds no GPU: install PyTorch for CUDA"
ROW_SECONDS = 3600  # compiling on a slow machine included
PACKAGES = (
    *("keras-imnet64", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy"),
    *("nvidia-cudnn-cu12", "nvidia-cublas-cu12"),
)


@dataclass(frozen=True)
class Plan:
    """The rows to measure, and what they share."""

    networks: Sequence[str]
    engines: Sequence[str]
    batch_sizes: Sequence[int]  # ascending, per device
    device_counts: Sequence[int]  # ascending; empty for 1, 2, 4 and so on, and all
    settings: Settings


@click.command()
@click.option("--out", default="gpu.jsonl", show_default=True, help="Rows are appended here.")
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES))
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(1), help="Per device."
)
@click.option(
    "--devices",
    "device_counts",
    multiple=True,
    type=click.IntRange(1),
    help="A number of devices; 1, 2, 4 ... and all by default.",
)
@click.option("--dtype", type=click.Choice(["mixed_bfloat16", "float32"]), default="mixed_bfloat16")
@click.option("--quick", is_flag=True, help="Batches of 128 and 1,024, shorter blocks.")
@click.option("--reduced", is_flag=True, help="A tiny network; the default without a GPU.")
@click.option("--no-pipeline", is_flag=True, help="Leaves out the steps that are fed with data.")
@click.option("--retry", is_flag=True, help="Measures rows that have failed once more.")
@click.option("--table-only", is_flag=True, help="Measures nothing, prints the table of --out.")
def main(out: str, table_only: bool, retry: bool, **options: object) -> None:
    try:
        results = Results(Path(out))
        if not table_only:
            measure(make_plan(**options), results, retry)  # type: ignore[arg-type]  # click's
        if not results.header or not results.rows:
            raise UserError(f"{out} holds no results: run without --table-only first")
        print(markdown(results.header, list(results.rows.values())))
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        click.echo(f"Stopped: the same command goes on with the rows of {out}", err=True)
        sys.exit(EXIT_STOPPED_AT_ONCE)


def make_plan(
    *,
    networks: Sequence[str],
    engines: Sequence[str],
    batch_sizes: Sequence[int],
    device_counts: Sequence[int],
    dtype: str,
    quick: bool,
    reduced: bool,
    no_pipeline: bool,
) -> Plan:
    """Returns the plan of the options, of which those with a list may be empty."""
    if not reduced and not this_machine().gpus:
        say("nvidia-smi lists no GPU: a tiny network on the CPU stands in, at a reduced size")
        reduced = True
    if not no_pipeline and is_missing("tensorflow"):
        say("steps are not fed with data: TensorFlow, which reads the data, is not installed")
        no_pipeline = True
    sizes = (4, 8) if reduced else (128, 1024) if quick else BATCH_SIZES
    return Plan(
        networks=networks or (["tiny"] if reduced else [n for n in NETWORKS if n != "tiny"]),
        engines=engines or ENGINES,
        batch_sizes=sorted(set(batch_sizes)) or sizes,
        device_counts=sorted(set(device_counts)) or ([1, 2] if reduced else []),
        settings=Settings(
            dtype=dtype,
            reduced=reduced,
            pipeline=not no_pipeline,
            matrix_size=256 if reduced else 8192,
            block_seconds=0.05 if reduced else 0.5 if quick else 2.0,
            num_blocks=2 if reduced else 3 if quick else 7,
            num_images=512 if reduced else 16_384,
            num_samples=4096 if reduced else 1_281_167,  # ImageNet64's
        ),
    )


def is_missing(module: str) -> bool:
    return find_spec(module) is None


# ---------------------------------------------------------------------------------- results file


class Results:
    """The file of results: a line with the header, then a row per line.

    Attributes:
        header: None for a new file.
        rows: by their keys; of rows with the same key the last counts.

    Raises:
        UserError: the file is another, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header | None = None
        self.rows: dict[tuple[str, str, int, int], Row] = {}
        self._cut_at: int | None = None  # where a line begins whose end a kill cut off
        with self._usable():
            content = path.read_bytes() if path.exists() else b""
        self._parse(content)

    def _parse(self, content: bytes) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        try:
            if content and not whole:
                raise ValueError("no line of it is whole")
            for number, line in enumerate(whole.splitlines()):
                if number:
                    row = parse_record(Row, line)
                    self.rows[row.key] = row
                else:
                    self.header = parse_record(Header, line)
        except ValueError as error:
            raise UserError(
                f"{self.path} is no file of results ({reason(error)}): choose another --out"
            ) from error
        if whole != content:  # a kill cut the last line short; its row is measured again
            self._cut_at = len(whole)

    def begin(self, header: Header) -> None:
        """Writes the header of a new file, or checks that of an old one.

        Raises:
            UserError: the file is of another machine, other versions or other settings, or it
                cannot be written.
        """
        if self.header is None:
            self.header = header
            self._append(header)
        before, now = self.header.facts, header.facts
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            old, new = (
                ", ".join(f"{name} {facts.get(name, 'missing')}" for name in changed)
                for facts in (before, now)
            )
            raise UserError(
                f"{self.path} holds results of {old}; received {new}: choose another --out"
            )
        self._append()  # a file that cannot be written is refused before anything is measured

    def add(self, row: Row) -> None:
        self.rows[row.key] = row
        self._append(row)

    def _append(self, *records: Header | Row) -> None:
        lines = [json.dumps(to_json(record, omit_none=True)) + "\n" for record in records]
        with self._usable(), open(self.path, "ab") as file:
            if self._cut_at is not None:
                file.truncate(self._cut_at)
                self._cut_at = None
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be used as the file of results "
                f"({os_error_text(error, self.path)}): choose another --out"
            ) from error


def header_of(settings: Settings) -> Header:
    """Returns the machine and the versions beside the settings."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = this_machine()
    return Header(
        machine,
        platform.platform(),
        versions,
        settings,
        driver_version() if machine.gpus else None,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


# ------------------------------------------------------------------------------------- measuring


def measure(plan: Plan, results: Results, retry: bool) -> None:
    """Measures what the results do not have yet."""
    backends = dict.fromkeys(map(backend_of, plan.engines))
    obstacles = {backend: obstacle(backend, plan.settings) for backend in backends}
    engines = [engine for engine in plan.engines if not obstacles[backend_of(engine)]]
    for engine in sorted(set(plan.engines) - set(engines)):
        say(f"{engine} is left out: {obstacles[backend_of(engine)]}")
    if not engines:
        raise UserError("no engine is left: `pip install '.[gpu]'` provides two of them")
    results.begin(header_of(plan.settings))
    with tempfile.TemporaryDirectory(prefix="imnet64-gpu-") as folder:
        bench = Bench(plan, results, retry, Path(folder))
        for backend in dict.fromkeys(map(backend_of, engines)):
            if backend != "torch":
                bench.row(MATRIX_PRODUCT, backend, 1, 1)
        for network in plan.networks:
            for engine in engines:
                bench.one_device(network, engine)
            for engine in engines:
                bench.several_devices(network, engine)


def backend_of(engine: str) -> str:
    return "torch" if engine in PEERS else engine.partition("+")[0]


def obstacle(backend: str, settings: Settings) -> str | None:
    """Returns why nothing can be measured under a backend; None where it can."""
    if is_missing(backend):
        return f"{backend} is not installed"
    if backend == "torch" and not settings.reduced and torch_finds_no_gpu():
        return NO_GPU_FOR_TORCH  # its process would make its first steps on the CPU
    return None


def torch_finds_no_gpu() -> bool:
    """Returns whether PyTorch says so; where it cannot be imported, its rows will say why."""
    command = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[-1:] == ["False"]


class Bench:
    """Runs the rows of a plan, each in a process of its own."""

    def __init__(self, plan: Plan, results: Results, retry: bool, folder: Path) -> None:
        self.plan, self.results, self.retry, self.folder = plan, results, retry, folder

    def one_device(self, network: str, engine: str) -> None:
        """Measures ascending batch sizes on one device, until memory runs out."""
        if self.plan.device_counts and 1 not in self.plan.device_counts:
            return
        for batch_size in self.plan.batch_sizes:
            if self.row(network, engine, 1, batch_size).out_of_memory:
                break

    def several_devices(self, network: str, engine: str) -> None:
        """Measures more devices, each with the largest batch that fits one and fits them all.

        Where one device was tried and no batch fits it, several are not tried.
        """
        if engine not in ("tensorflow", "jax"):
            return  # XLA does not work with TensorFlow's strategy, and the peer has one device
        sizes = self.plan.batch_sizes
        rows = [self.results.rows.get((network, engine, 1, size)) for size in sizes]
        tried = [row for row in rows if row]
        fit = [row.batch_size for row in tried if row.step_seconds]
        for count in self.device_counts():
            for batch_size in reversed(fit if tried else sizes):
                if count == 1 or not self.row(network, engine, count, batch_size).out_of_memory:
                    break

    def device_counts(self) -> Sequence[int]:
        if self.plan.device_counts:
            return self.plan.device_counts
        present = max([1, *(len(row.devices) for row in self.results.rows.values())])
        return sorted({*(2**n for n in range(10) if 2**n <= present), present})

    def row(self, network: str, engine: str, num_devices: int, batch_size: int) -> Row:
        """Returns a row of the results, which is measured if they do not have it."""
        row = Row(network, engine, num_devices, batch_size, date.today().isoformat())
        known = self.results.rows.get(row.key)
        if known and not (self.retry and known.failure and not known.out_of_memory):
            return known
        row = measure_row(row, self.side(row), self.plan.settings)
        self.results.add(row)
        say(f"{row.label}: {outcome(row)}")
        return row

    def side(self, row: Row) -> Side:
        """Returns how to start the process of a row."""
        settings = self.plan.settings
        environment = {"KERAS_IMNET64_PROGRAMS_DIR": "off"}  # the first step compiles
        if settings.reduced:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        recipe = None if row.network == MATRIX_PRODUCT else recipe_of(row, settings.dtype)
        if recipe and row.engine in PEERS:
            found = peers(
                [recipe], subject_of(recipe, recipe.num_classes), self.folder, program=PEER
            )
            side = next(s for s in found if s.name == row.engine.replace("-", " "))
            return replace(side, environment=side.environment | environment)
        toml, num_devices = (recipe.to_toml(), row.num_devices) if recipe else (None, 0)
        return Side(
            row.engine,
            settings.dtype,
            [sys.executable, str(HERE / "gpu_row.py")],
            to_json(Request(toml, num_devices, settings)),
            environment | {"KERAS_BACKEND": backend_of(row.engine)},
        )


def recipe_of(row: Row, dtype: str) -> Recipe:
    """Returns the recipe whose step a row measures; its batch is that of all devices."""
    name, changes = NETWORKS[row.network]
    content = load_recipe(name).model_dump(exclude_none=True, exclude_unset=True)
    content["data"].pop("steps_per_epoch", None)
    override(content, changes)
    content["name"] = row.network
    content["model"]["normalization"] = "imagenet"
    content["data"]["batch_size"] = row.batch_size * row.num_devices
    content["train"] |= {"dtype": dtype, "xla": XLA.get(row.engine, "auto")}
    return check_recipe(content)


def outcome(row: Row) -> str:
    if row.out_of_memory:
        return "memory ran out"
    if row.flops:
        return f"{row.flops / 1e12:.2f} TFLOP/s"
    if row.step_seconds:
        return f"{images_per_second(row):,.0f} images/s"
    return f"failed: {row.failure}"


def measure_row(row: Row, side: Side, settings: Settings) -> Row:
    """Returns the row with what its process has measured, and why it ended if it failed."""
    try:
        activity = Activity(f"measuring {row.label}", at_once=True)
        with activity, Conversation(side) as worker, deadline(worker):
            if side.request:
                worker.say(json.dumps(side.request))
            facts = worker.answer()
            if facts.pop("device", None) == "cpu" and not settings.reduced:
                raise RunFailed(NO_GPU_FOR_TORCH)
            if row.network == MATRIX_PRODUCT:
                seconds = min(blocks(worker, "product", settings))
                flops = 2 * settings.matrix_size**3 / seconds
                return replace(row, devices=tuple(facts["devices"]), flops=flops)
            facts.pop("name", None)
            row = replace(row, **facts)
            step_seconds = tuple(blocks(worker, "step", settings))
            memory = worker.ask("memory")
            row = replace(
                row,
                step_seconds=step_seconds,
                peak_memory_mb=memory["peak_mb"],
                loss=memory.get("loss"),
            )
            if settings.pipeline and not side.is_peer:
                fed, resident = alternate(worker, row, settings)
                row = replace(row, fed_seconds=fed, resident_seconds=resident)
    except UserError as error:
        failure = str(error).removeprefix(f"{side.label} failed: ")
        no_memory = is_out_of_memory(error) or "memory runs out" in failure
        return replace(row, failure=failure, out_of_memory=no_memory and not row.step_seconds)
    return row


def blocks(worker: Conversation, task: str, settings: Settings) -> list[float]:
    """Returns the seconds of one of the task in each block, after some that are not counted."""
    worker.seconds(task, 2)  # may compile again, where the state has another layout
    count = steps_of_block(worker.seconds(task, 2), settings)
    return [worker.seconds(task, count) for _ in range(settings.num_blocks)]


def steps_of_block(seconds: float, settings: Settings) -> int:
    return int(min(MAX_STEPS, max(2, round(settings.block_seconds / max(seconds, 1e-9)))))


def alternate(
    worker: Conversation, row: Row, settings: Settings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the seconds of a fed and of a resident step, in blocks that alternate.

    An epoch of more than MAX_AHEAD + 1 steps is not read to its end, where the pipeline would rest.
    """
    steps_per_epoch = settings.num_samples // (row.batch_size * row.num_devices)
    most = max(1, (steps_per_epoch - MAX_AHEAD) // 2)
    count = min(most, steps_of_block(median(row.step_seconds), settings))
    worker.seconds("fed", count)  # starts the pipeline
    fed, resident = [], []
    for _ in range(settings.num_blocks):
        fed.append(worker.seconds("fed", count))
        resident.append(worker.seconds("step", count))
    return tuple(fed), tuple(resident)


@contextmanager
def deadline(worker: Conversation) -> Iterator[None]:
    """Kills a worker that has not ended after ROW_SECONDS.

    Raises:
        RunFailed: the time was over.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        worker.kill()

    timer = threading.Timer(ROW_SECONDS, end)
    timer.start()
    try:
        yield
    except UserError as error:
        if not is_over.is_set():
            raise
        raise RunFailed(f"it took more than {ROW_SECONDS:,} seconds") from error
    finally:
        timer.cancel()


if __name__ == "__main__":
    main()
