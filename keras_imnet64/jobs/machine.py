"""Where jobs train, and on which data: the devices of this machine, in shares of equal size."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.jobs.preflight import PreflightRequest, run_preflight
from keras_imnet64.jobs.shares import MachineShare, share_machine
from keras_imnet64.recipe.schema import Recipe


@dataclass(frozen=True)
class Machine:
    """Where jobs train, and on which data.

    Attributes:
        jobs: number of runs that are trained at a time, each on its share of the devices.
        devices, virtual_devices: as for `take_devices`; virtual devices only for one job.
        data_dir, cache_dir: folders of data sets and their stores, see `datasets.open_dataset`.

    Raises:
        UserError: several jobs are to share virtual devices.
    """

    jobs: int = 1
    devices: str | None = None
    virtual_devices: int | None = None
    data_dir: StrPath | None = None
    cache_dir: StrPath | None = None

    def __post_init__(self) -> None:
        if self.jobs > 1 and self.virtual_devices:
            raise UserError(
                f"--virtual-devices is for one job at a time; received --jobs {self.jobs}"
            )

    def prepare(
        self, recipes: Sequence[Recipe], most: int
    ) -> tuple[Sequence[MachineShare], list[str]]:
        """Checks that recipes can be trained, unless there are none.

        Args:
            most: number of jobs that there can be at a time.

        Returns:
            (the shares of the machine, the options of `fit` for all jobs).

        Raises:
            UserError, RunFailed: see `run_preflight` and `share_machine`.
        """
        if not recipes:
            return [], []
        request = PreflightRequest(
            [recipe.to_toml() for recipe in recipes],
            self.devices,
            self.virtual_devices,
            data_dir=None if self.data_dir is None else str(self.data_dir),
            cache_dir=None if self.cache_dir is None else str(self.cache_dir),
        )
        gpus = run_preflight(request)
        return share_machine(min(self.jobs, most), self.devices, gpus), request.fit_options
