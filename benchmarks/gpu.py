"""Measures training steps on the GPUs of this machine, and prints a Markdown table.

    pip install ".[gpu]" && python benchmarks/gpu.py        # hours; --quick takes a part of that
    python benchmarks/gpu.py --reduced                      # a minute on a CPU, to try the script

Each row is a network, an engine (TensorFlow without and with XLA, JAX, and PyTorch where it is
installed), a batch size per device and a number of devices, in a process of its own: a crash or a
lack of memory ends that row alone. Batch sizes double until memory runs out, which is a row too.
Several devices are tried at the largest batch that one device takes. Rows are appended to a file as
they come, and the same command goes on where it was.

    images/s           the compiled step of `Model.fit` on a batch that lies on the device
    TFLOP/s, of peak   6 per multiply-accumulate (2, times 3 for forward and backward pass), against
                       the best rate of bfloat16 products of matrices, measured in the same run
    fed by pipeline    `Model.fit` on generated images with the recipe's augmentation
    beside the step    the share of time that input and Keras' loop add, from alternating blocks
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from gpu_row import ENGINES, MATRIX_PRODUCT, NETWORKS, Request, is_missing, recipe_of, write_images
from gpu_table import images_per_second, markdown

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import EXIT_STOPPED_AT_ONCE, UserError, nearest, reason
from keras_imnet64.core.processes import failure_reason
from keras_imnet64.core.types import JsonObject

HERE = Path(__file__).parent
PEER = HERE / "torch_peer.py"
PEERS = ("torch-eager", "torch-compile")
BATCH_SIZES = (128, 256, 512, 1024, 2048)
NUM_SAMPLES = 1_281_167  # as in ImageNet64
ROW_SECONDS = 3600  # compiling on a slow machine included
TOO_LONG = f"it took more than {ROW_SECONDS:,} seconds"
PACKAGES = ("keras-imnet64", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long each block of steps takes."""

    networks: tuple[str, ...]
    engines: tuple[str, ...]
    batch_sizes: tuple[int, ...]  # ascending, per device
    device_counts: tuple[int, ...] | None  # None: 1, 2, 4 and so on, and all
    dtype: str
    reduced: bool
    pipeline: bool
    matrix_size: int
    block_seconds: float
    num_blocks: int
    num_images: int  # generated ones
    num_samples: int  # in an epoch of the pipeline


@click.command()
@click.option("--out", default="gpu.jsonl", show_default=True, help="Rows are appended here.")
@click.option("--networks", help=f"Of {', '.join(NETWORKS)}, with commas.")
@click.option("--engines", help=f"Of {', '.join((*ENGINES, *PEERS))}, with commas.")
@click.option("--batch-sizes", help="Images per device, with commas.")
@click.option("--devices", help="Numbers of devices, with commas; 1, 2, 4 ... all by default.")
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
        if not results.rows:
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
    networks: str | None,
    engines: str | None,
    batch_sizes: str | None,
    devices: str | None,
    dtype: str,
    quick: bool,
    reduced: bool,
    no_pipeline: bool,
) -> Plan:
    """Returns the plan of the options; without a GPU it is reduced.

    Raises:
        UserError: a network or engine is not known, or a number is no number.
    """
    from keras_imnet64.doctor.facts import driver_gpus

    if not reduced and not driver_gpus()[0]:
        say("nvidia-smi lists no GPU: a tiny network on the CPU stands in, at a reduced size")
        reduced = True
    sizes = (4, 8) if reduced else (128, 1024) if quick else BATCH_SIZES
    return Plan(
        networks=names(networks, "--networks", NETWORKS)
        or (("tiny",) if reduced else tuple(n for n in NETWORKS if n != "tiny")),
        engines=names(engines, "--engines", (*ENGINES, *PEERS)) or (*ENGINES, *PEERS),
        batch_sizes=numbers(batch_sizes, "--batch-sizes") or sizes,
        device_counts=numbers(devices, "--devices") or ((1, 2) if reduced else None),
        dtype=dtype,
        reduced=reduced,
        pipeline=not no_pipeline,
        matrix_size=256 if reduced else 8192,
        block_seconds=0.05 if reduced else 0.5 if quick else 2.0,
        num_blocks=2 if reduced else 3 if quick else 7,
        num_images=512 if reduced else 16384,
        num_samples=4096 if reduced else NUM_SAMPLES,
    )


def names(text: str | None, option: str, known: "dict[str, object] | tuple[str, ...]") -> tuple:
    """Returns the names of a list with commas, or () without one."""
    found = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    for name in found:
        if name not in known:
            raise UserError(f'{option} does not know "{name}"; {nearest(name, known)}')
    return found


def numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Returns the numbers of a list with commas in ascending order, or () without one."""
    try:
        found = sorted({int(part) for part in (text or "").split(",") if part.strip()})
    except ValueError:
        found = [0]
    if found and found[0] < 1:
        raise UserError(f'{option} takes whole numbers from 1, such as 128,256; received "{text}"')
    return tuple(found)


# ------------------------------------------------------------------------------------ results file


class Results:
    """The file of results: a header with the machine and versions, then a row per line.

    Attributes:
        header: {} for a new file.
        rows: {key: row}; of rows with the same key the last counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: JsonObject = {}
        self.rows: dict[tuple[object, ...], JsonObject] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            self.header = lines[0]["header"] if lines else {}
            if lines and not {"machine", "versions", "settings"} <= set(self.header):
                raise ValueError("it begins with no header")
            self.rows = {key_of(row): row for row in lines[1:]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is no file of results ({reason(error)}): choose another --out"
            ) from error
        if whole != content:  # a kill cut the last line short; its row is measured again
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))

    def begin(self, header: JsonObject) -> None:
        """Writes the header of a new file, or checks that of an old one.

        Raises:
            UserError: the file is of another machine, other versions or other settings.
        """
        if not self.header:
            self.header = header
            self._append({"header": header})
        for part, words in (
            ("machine", "another machine"),
            ("versions", "other versions"),
            ("settings", "other settings"),
        ):
            if self.header[part] != header[part]:
                before, now = (
                    shown(h[part], self.header[part], header[part]) for h in (self.header, header)
                )
                raise UserError(
                    f"{self.path} holds results of {words} ({before}); received {now}: "
                    "choose another --out"
                )

    def add(self, row: JsonObject) -> None:
        self.rows[key_of(row)] = row
        self._append(row)

    def _append(self, content: JsonObject) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())


def key_of(row: JsonObject) -> tuple[object, ...]:
    return tuple(row[name] for name in ("network", "engine", "num_devices", "batch_size"))


def shown(part: JsonObject, before: JsonObject, now: JsonObject) -> str:
    """Returns the values of a part of a header that differ between two headers."""
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return ", ".join(f"{key} {part.get(key, 'not there')}" for key in keys)


def header_of(plan: Plan) -> JsonObject:
    """Returns the machine, the versions, and the settings that all rows share."""
    from keras_imnet64.doctor.facts import driver_gpus

    versions: JsonObject = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    gpus = [gpu.name for gpu in driver_gpus()[0]]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "gpus": gpus,
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
            "driver": driver_version() if gpus else None,
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "versions": versions,
        "settings": {
            name: getattr(plan, name)
            for name in ("dtype", "matrix_size", "block_seconds", "num_blocks", "reduced")
        },
    }


def driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --------------------------------------------------------------------------------------- measuring


def measure(plan: Plan, results: Results, retry: bool) -> None:
    """Measures what the results do not have yet."""
    for engine in plan.engines:
        why = unavailable(engine)
        if why:
            say(f"{engine} is left out: {why}")
    engines = [engine for engine in plan.engines if not unavailable(engine)]
    if not engines:
        raise UserError("no engine is installed: `pip install '.[gpu]'` provides two of them")
    results.begin(header_of(plan))
    with tempfile.TemporaryDirectory(prefix="imnet64-gpu-") as folder:
        bench = Bench(plan, results, retry, Path(folder))
        for engine in engines:
            if engine in ("tensorflow", "jax"):
                bench.row(MATRIX_PRODUCT, engine, 1, 1)
        for network in plan.networks:
            for engine in engines:
                bench.one_device(network, engine)
            for engine in engines:
                bench.several_devices(network, engine)


def unavailable(engine: str) -> str | None:
    """Returns why an engine cannot be measured, or None."""
    backend = ENGINES[engine][0] if engine in ENGINES else "torch"
    if is_missing(backend):
        return f"{backend} is not installed"
    if engine in PEERS and not PEER.exists():
        return f"{PEER.name} is not there"
    return None


class Bench:
    """Runs the rows of a plan, each in a process of its own."""

    def __init__(self, plan: Plan, results: Results, retry: bool, folder: Path) -> None:
        self.plan, self.results, self.retry, self.folder = plan, results, retry, folder

    def one_device(self, network: str, engine: str) -> None:
        """Measures ascending batch sizes on one device, until memory runs out."""
        if self.plan.device_counts and 1 not in self.plan.device_counts:
            return
        for batch_size in self.plan.batch_sizes:
            if self.row(network, engine, 1, batch_size).get("out_of_memory"):
                break

    def several_devices(self, network: str, engine: str) -> None:
        """Measures more devices, each with the largest batch that one device takes."""
        if engine not in ("tensorflow", "jax"):
            return  # XLA does not work with TensorFlow's strategy, and the peer has one device
        rows = [
            row
            for row in self.results.rows.values()
            if (row["network"], row["engine"], row["num_devices"]) == (network, engine, 1)
            and "step_seconds" in row
        ]
        sizes = [row["batch_size"] for row in rows if row["batch_size"] in self.plan.batch_sizes]
        largest = max(sizes, default=min(self.plan.batch_sizes))
        for count in self.device_counts():
            if count > 1:
                self.row(network, engine, count, largest)

    def device_counts(self) -> tuple[int, ...]:
        if self.plan.device_counts:
            return self.plan.device_counts
        present = max(
            len(row.get("devices", ()))
            for row in self.results.rows.values()
            if row["network"] == MATRIX_PRODUCT
        )
        return tuple(sorted({*(2**n for n in range(10) if 2**n <= present), present}))

    def row(self, network: str, engine: str, num_devices: int, batch_size: int) -> JsonObject:
        """Returns a row of the results, which is measured if they do not have it."""
        key: JsonObject = {
            "network": network,
            "engine": engine,
            "num_devices": num_devices,
            "batch_size": batch_size,
        }
        known = self.results.rows.get(key_of(key))
        if known and not (self.retry and "failure" in known and not known.get("out_of_memory")):
            return known
        request = Request(
            network,
            engine,
            num_devices,
            batch_size,
            dtype=self.plan.dtype,
            virtual=self.plan.reduced,
            images=None,
            num_samples=self.plan.num_samples,
            matrix_size=self.plan.matrix_size,
            block_seconds=self.plan.block_seconds,
            num_blocks=self.plan.num_blocks,
        )
        request = replace(request, images=self.images(request))
        found = measure_peer(request, self.folder) if engine in PEERS else measure_row(request)
        row = key | {"date": time.strftime("%Y-%m-%d")} | found
        self.results.add(row)
        say(f"{network}, {engine}, {num_devices} x {batch_size}: {outcome(row)}")
        return row

    def images(self, request: Request) -> str | None:
        """Returns the folder of generated images of a network's size; writes it if it is new."""
        if not self.plan.pipeline or request.network == MATRIX_PRODUCT or request.engine in PEERS:
            return None
        size = recipe_of(request).image_size
        folder = self.folder / f"images{size}"
        if not folder.exists():
            write_images(str(folder), size, self.plan.num_images)
        return str(folder)


def outcome(row: JsonObject) -> str:
    if row.get("out_of_memory"):
        return "memory ran out"
    if "flops" in row:
        return f"{row['flops'] / 1e12:.2f} TFLOP/s"
    if "step_seconds" in row:
        return f"{images_per_second(row):,.0f} images/s"
    return f"failed: {row['failure']}"


def measure_row(request: Request) -> JsonObject:
    """Returns what a process of `gpu_row.py` finds, and why it failed if it did."""
    environment = os.environ | {"KERAS_BACKEND": request.backend}
    command = [sys.executable, str(HERE / "gpu_row.py"), json.dumps(asdict(request))]
    with tempfile.TemporaryFile("w+") as errors:
        with (
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,  # whose end tells the child that this process is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as child,
            deadline(child) as is_over,
        ):
            assert child.stdout is not None
            lines = child.stdout.readlines()
        errors.seek(0)
        failure = TOO_LONG if is_over.is_set() else failure_reason(child.returncode, errors.read())
    found: JsonObject = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            found |= json.loads(line)
    if failure and "step_seconds" in found:  # the stage after it failed
        found["pipeline_failure"] = failure
    elif failure:
        found["failure"] = failure
    return found


@contextlib.contextmanager
def deadline(child: "subprocess.Popen[str]") -> Iterator[threading.Event]:
    """Kills a child that has not ended after ROW_SECONDS, or when its context is left by error.

    Yields:
        What is set if the time was over.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        child.kill()

    timer = threading.Timer(ROW_SECONDS, end)
    timer.start()
    try:
        yield is_over
    except BaseException:
        child.kill()
        raise
    finally:
        timer.cancel()


# -------------------------------------------------------------------------------------------- peer


def measure_peer(request: Request, folder: Path) -> JsonObject:
    """Returns what `torch_peer.py` finds for the same recipe and batch on one device."""
    recipe = recipe_of(request)
    recipe_file = folder / f"{request.network}.toml"
    recipe_file.write_text(recipe.to_toml())
    options = {
        "--recipe": recipe_file,
        "--batch-size": request.batch_size,
        "--dtype": request.dtype,
        "--mode": request.engine.removeprefix("torch-"),
        "--image-size": recipe.image_size,
        "--num-classes": recipe.num_classes,
    }
    command = [sys.executable, str(PEER), *(str(x) for pair in options.items() for x in pair)]
    found: JsonObject = {}
    refusal = ""
    with tempfile.TemporaryFile("w+") as errors:
        with (
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
            deadline(child) as is_over,
        ):
            try:
                found = ask_peer(child, request)
            except PeerEnded as ended:
                refusal = str(ended)
            with contextlib.suppress(OSError):
                child.stdin.close()  # type: ignore[union-attr]  # a pipe, as asked for
            child.wait()
        errors.seek(0)
        text = errors.read()
    if "step_seconds" in found:
        return found
    failure = refusal or failure_reason(child.returncode, text) or "it gave no answer"
    failure = TOO_LONG if is_over.is_set() else failure
    out_of_memory = "out of memory" in text.lower() or "memory ran out" in text.lower()
    return found | {"failure": failure} | ({"out_of_memory": True} if out_of_memory else {})


class PeerEnded(Exception):
    """The peer has ended, or refuses what it was asked; the message says why if it has said so."""


def ask_peer(child: "subprocess.Popen[str]", request: Request) -> JsonObject:
    """Returns the answers of the peer to what `measure_network` measures."""
    ready = read_answer(child)
    ask(child, "step 3")  # compiles
    seconds = float(ask(child, "step 3")["seconds"]) / 3
    count = int(min(500, max(2, round(request.block_seconds / max(seconds, 1e-9)))))
    blocks = [float(ask(child, f"step {count}")["seconds"]) for _ in range(request.num_blocks)]
    memory = ask(child, "memory").get("peak_mb")
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write("quit\n")
        child.stdin.flush()
    return {
        "name": ready.get("name"),
        "parameters": ready.get("parameters"),
        "compile_seconds": ready.get("compile_seconds"),
        "steps_per_block": count,
        "step_seconds": [block / count for block in blocks],
        "peak_memory_mb": memory,
    }


def ask(child: "subprocess.Popen[str]", line: str) -> JsonObject:
    assert child.stdin is not None
    try:
        child.stdin.write(f"{line}\n")
        child.stdin.flush()
    except BrokenPipeError:
        raise PeerEnded from None
    return read_answer(child)


def read_answer(child: "subprocess.Popen[str]") -> JsonObject:
    """Returns the next JSON object that the peer prints."""
    assert child.stdout is not None
    for line in child.stdout:
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "error" not in answer:
                return answer
            raise PeerEnded(answer["error"] if isinstance(answer, dict) else line)
    raise PeerEnded


if __name__ == "__main__":
    main()
