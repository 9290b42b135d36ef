"""The records of `gpu.py`: what a row's process is asked, rows, and the header of their file."""

from dataclasses import asdict, dataclass

from keras_imnet64.bench.record import BenchMachine
from keras_imnet64.core.types import JsonObject

MATRIX_PRODUCT = "matrix product"  # in place of a network


@dataclass(frozen=True)
class Settings:
    """What all rows of a file share.

    Attributes:
        reduced: whether virtual devices of the CPU stand in for GPUs.
        pipeline: whether steps are also measured as the recipe's pipeline feeds them.
        matrix_size: rows and columns of the matrices whose products are measured.
        block_seconds: the time of a block of steps, of which a row has `num_blocks`.
        num_images: generated ones, which an epoch of the pipeline repeats.
        num_samples: images in an epoch of the pipeline.
    """

    dtype: str
    reduced: bool
    pipeline: bool
    matrix_size: int
    block_seconds: float
    num_blocks: int
    num_images: int
    num_samples: int


@dataclass(frozen=True)
class Request:
    """What a process of `gpu_row.py` measures.

    Attributes:
        recipe: as TOML, with the batch of all devices; None for products of matrices.
        num_devices: 0 for all.
    """

    recipe: str | None
    num_devices: int
    settings: Settings


@dataclass(frozen=True)
class Row:
    """What was measured of a network, or of products of matrices.

    Attributes:
        batch_size: images per step on each device.
        devices: all that the engine sees; of products of matrices alone.
        flops: per second; of products of matrices alone.
        macs: multiply-accumulates per image.
        first_loss, loss: of the first step, and the mean of all; the batch is always the same.
        step_seconds: of a step on a batch that lies on the devices, in each block.
        fed_seconds, resident_seconds: of a step that the pipeline feeds, and of one on the resident
            batch, in blocks that alternate.
        failure: why the row ends here; with `step_seconds`, why the pipeline was not measured.
        out_of_memory: whether there was not enough memory for a step.
    """

    network: str
    engine: str
    num_devices: int
    batch_size: int
    date: str
    devices: tuple[str, ...] = ()
    flops: float | None = None
    parameters: int | None = None
    macs: int | None = None
    compile_seconds: float | None = None
    first_loss: float | None = None
    loss: float | None = None
    step_seconds: tuple[float, ...] = ()
    peak_memory_mb: float | None = None
    fed_seconds: tuple[float, ...] = ()
    resident_seconds: tuple[float, ...] = ()
    failure: str | None = None
    out_of_memory: bool = False

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.network, self.engine, self.num_devices, self.batch_size

    @property
    def label(self) -> str:
        return f"{self.network}, {self.engine}, {self.num_devices} x {self.batch_size}"


@dataclass(frozen=True)
class Header:
    """The first line of a file of results: where and with what its rows were measured.

    Attributes:
        driver: version of NVIDIA's driver.
        visible: CUDA_VISIBLE_DEVICES.
    """

    machine: BenchMachine
    system: str
    versions: dict[str, str]
    settings: Settings
    driver: str | None = None
    visible: str | None = None

    @property
    def facts(self) -> JsonObject:
        """Returns {name: value} of all that must be equal for rows to stand in one table."""
        own: JsonObject = {name: getattr(self, name) for name in ("system", "driver", "visible")}
        return asdict(self.machine) | own | self.versions | asdict(self.settings)
