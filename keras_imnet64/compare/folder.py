"""The folder of a comparison: what each side has finished, and the processes that do the rest.

    comparison.json             what is compared; another comparison does not go on here
    start.npz                   all variables before the first step, of all sides
    1-tensorflow/               of the first side: trajectory.json, yardstick.json, step-0001.npz,
                                step-0001-near-float32.npz
    2-jax/                      of the second one: trajectory.json, step-0001.npz
    state-0012.npz              all variables of the first side before step 12
    gradients-0012.npz          its gradients there, which all sides' optimizers are given
    kinks-0012.npz              its inputs of ReLUs and max pools there, which all sides are given
    disturbed-2.json            losses of the first side, disturbed as the second side's rounding
                                would, where only that may explain how far the two diverge
    result.json                 the result, for `report`
    comparison.html             the same, for a browser

`scores` puts the folders of whole runs into those of the sides.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from keras_imnet64.compare.records import (
    StepRecord,
    Trajectory,
    Yardstick,
    read_step,
    versions,
)
from keras_imnet64.compare.request import DisturbedTask, NearTask, Outcome, Request, StepTask
from keras_imnet64.compare.sides import Side
from keras_imnet64.compare.verdict import (
    TOLERANCES,
    StepComparison,
    Tolerance,
    Verdict,
    all_runs,
    coarser,
    compare_step,
    conclude,
    disturbance_of,
)
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import MAX_JSON_BYTES, parse_json, read_small, write_json
from keras_imnet64.core.paths import check_writable, os_error_text
from keras_imnet64.core.processes import run_child
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import Record, parse_record, read_record
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run

WORKER = "keras_imnet64.compare.worker"
SETTINGS, RESULT = "comparison.json", "result.json"


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the steps that both sides have computed from the same state."""

    verdict: Verdict
    steps: tuple[StepComparison, ...]


@dataclass(frozen=True)
class Comparison:
    """A comparison in a folder.

    Attributes:
        num_steps: of the trajectories.
        virtual_devices, data_dir, cache_dir: see `request.Request`.
    """

    folder: Path
    recipe: Recipe
    sides: tuple[Side, ...]
    num_steps: int
    virtual_devices: int | None = None
    data_dir: str | None = None
    cache_dir: str | None = None

    # -------------------------------------------------------------------------------------- files

    @property
    def settings_file(self) -> Path:
        return self.folder / SETTINGS

    @property
    def result_file(self) -> Path:
        return self.folder / RESULT

    @property
    def page_file(self) -> Path:
        return self.folder / "comparison.html"

    def side_folder(self, index: int) -> Path:
        label = self.sides[index].label.replace(":", "-")
        return self.folder / f"{index + 1}-{label}"

    def trajectory_file(self, index: int) -> Path:
        return self.side_folder(index) / "trajectory.json"

    @property
    def yardstick_file(self) -> Path:
        return self.side_folder(0) / "yardstick.json"

    def disturbed_file(self, index: int) -> Path:
        return self.folder / f"disturbed-{index + 1}.json"

    def step_file(self, index: int, step: int) -> Path:
        return self.side_folder(index) / f"step-{step + 1:04d}.npz"

    def near_file(self, step: int, dtype: str) -> Path:
        """The step of the first side from a state that is one last bit of a dtype apart."""
        return self.side_folder(0) / f"step-{step + 1:04d}-near-{dtype}.npz"

    def dtype(self, index: int) -> str:
        """Returns the dtype of a side, which is its own or that of the recipe."""
        return self.sides[index].dtype or self.recipe.train.dtype

    def coarser_dtype(self, index: int) -> str:
        """Returns the dtype, of those of a side and of the first one, that rounds more."""
        return coarser([self.dtype(0), self.dtype(index)])

    def tolerance(self, index: int) -> Tolerance:
        """Returns what rounding explains between a side and the first one."""
        return TOLERANCES[self.coarser_dtype(index)]

    @property
    def settings(self) -> JsonObject:
        """What must not change when a comparison goes on, by name."""
        return {
            "recipe": self.recipe.to_toml(),
            "sides": [side.label for side in self.sides],
            "steps": self.num_steps,
            "virtual_devices": self.virtual_devices,
            "data_dir": self.data_dir and os.path.abspath(self.data_dir),
            "cache_dir": self.cache_dir and os.path.abspath(self.cache_dir),
            "versions": versions({side.backend for side in self.sides}),
        }

    # -------------------------------------------------------------------------------------- doing

    def prepare(self) -> None:
        """Makes the folder, or checks that this comparison goes on there.

        Raises:
            UserError: it holds something else, or cannot be written to.
        """
        try:
            check_writable(self.folder)
            if not self.settings_file.exists():
                if self.folder.is_dir() and any(self.folder.iterdir()):
                    raise UserError(
                        f"{self.folder} is not empty and holds no comparison; choose another --out"
                    )
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.settings_file, self.settings)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be used ({os_error_text(error, self.folder)}); choose "
                "another --out"
            ) from error
        found = self._read_settings()
        changed = [key for key, value in self.settings.items() if found.get(key) != value]
        if changed and not self._is_blank():
            raise UserError(
                f"{self.folder} holds a comparison that differs in its {', '.join(changed)}: "
                "choose another --out"
            )
        if changed:
            self._begin_anew()
        for index in range(len(self.sides)):
            self.side_folder(index).mkdir(exist_ok=True)

    def _is_blank(self) -> bool:
        """Whether no side has finished anything, as if it refused what was asked."""
        own = {self.settings_file, Run(self.folder).lock_file}
        others = [path for path in self.folder.iterdir() if path not in own]
        return all(path.is_dir() and not any(path.iterdir()) for path in others)

    def _begin_anew(self) -> None:
        """Makes this comparison that of a folder without results."""
        for path in self.folder.iterdir():
            if path.is_dir():
                path.rmdir()
        write_json(self.settings_file, self.settings)

    def _read_settings(self) -> JsonObject:
        try:
            found = parse_json(read_small(self.settings_file, MAX_JSON_BYTES))
        except (OSError, ValueError) as error:
            raise damaged(self.settings_file, error) from error
        return found if isinstance(found, dict) else {}

    def train(
        self, index: int, steps: Sequence[int], disturbed: DisturbedTask | None = None
    ) -> None:
        """Makes a side's process do what is not done yet: its trajectory and these steps.

        The first side measures the yardstick too, and the second one where that is asked.
        """
        wanted = [self.trajectory_file(index), *(self.step_file(index, step) for step in steps)]
        near = self._near_tasks(steps) if index == 0 else {}
        wanted += [Path(task.record) for tasks in near.values() for task in tasks]
        if index == 0:
            wanted.append(self.yardstick_file)
        if disturbed:
            wanted.append(Path(disturbed.record))
        if all(file.exists() for file in wanted):
            return
        side = self.sides[index]
        tasks = [
            StepTask(
                step=step,
                state=str(self._state_file(step)),
                gradients=str(self.folder / f"gradients-{step + 1:04d}.npz"),
                kinks=str(self.folder / f"kinks-{step + 1:04d}.npz"),
                record=str(self.step_file(index, step)),
                near=near.get(step, ()),
            )
            for step in steps
        ]
        request = Request(
            recipe=side.recipe(self.recipe).to_toml(),
            start=str(self._state_file(0)),
            num_steps=self.num_steps,
            trajectory=str(self.trajectory_file(index)),
            yardstick=str(self.yardstick_file) if index == 0 else None,
            steps=tuple(tasks),
            disturbed=disturbed,
            devices=side.devices,
            virtual_devices=self.virtual_devices,
            data_dir=self.data_dir,
            cache_dir=self.cache_dir,
        )
        with Activity(f"training {side.label}", at_once=True):
            self._run(side, request)
        untrained = self.trajectory(0).untrained
        if untrained:
            raise RunFailed(
                f"side {self.sides[0].label}, with which the others are compared, does not train "
                f"this recipe ({untrained}): name another side first"
            )

    def disturb(self, index: int, steps: Sequence[int]) -> None:
        """Makes the first side train as disturbed as a side that differs by rounding in steps."""
        compared = [self.compare_step(index, step) for step in steps]
        record = str(self.disturbed_file(index))
        self.train(0, [], DisturbedTask(disturbance_of(compared), record))

    def _near_tasks(self, steps: Sequence[int]) -> dict[int, tuple[NearTask, ...]]:
        """Returns the tasks of each step for the dtypes of all pairs of sides."""
        dtypes = sorted({self.coarser_dtype(index) for index in range(1, len(self.sides))})
        return {
            step: tuple(NearTask(dtype, str(self.near_file(step, dtype))) for dtype in dtypes)
            for step in steps
        }

    def _state_file(self, step: int) -> Path:
        return self.folder / (f"state-{step + 1:04d}.npz" if step else "start.npz")

    def _run(self, side: Side, request: Request) -> None:
        child = run_child(
            WORKER, request=asdict(request), environment=os.environ | side.environment
        )
        kept = f"; what is finished is kept in {self.folder}, and the same command goes on"
        if child.failure:
            raise RunFailed(f"side {side.label} failed: {child.failure}{kept}")
        outcome = parse_record(Outcome, json.dumps(child.reply(f"side {side.label}")))
        if outcome.error and outcome.is_run_failure:
            raise RunFailed(f"side {side.label} failed: {outcome.error}{kept}")
        if outcome.error:
            raise UserError(f"side {side.label}: {outcome.error}")

    # ------------------------------------------------------------------------------------ reading

    def trajectory(self, index: int) -> Trajectory:
        return read(Trajectory, self.trajectory_file(index))

    def runs(self) -> np.ndarray:
        """Returns the losses of the yardstick's runs, that of the first side included: [R, S]."""
        return all_runs(self.trajectory(0), read(Yardstick, self.yardstick_file))

    def disturbed(self, index: int) -> Yardstick | None:
        """Returns the disturbed runs for a side; None if there are none."""
        file = self.disturbed_file(index)
        return read(Yardstick, file) if file.exists() else None

    def judge(self, index: int, steps: Sequence[int]) -> Judgement:
        """Judges a side against the first one.

        Args:
            steps: those that both have computed from the same state.
        """
        a, b = self.trajectory(0), self.trajectory(index)
        compared = tuple(self.compare_step(index, step) for step in steps)
        tolerance, disturbed = self.tolerance(index), self.disturbed(index)
        return Judgement(conclude(a, b, self.runs(), compared, tolerance, disturbed), compared)

    def compare_step(self, index: int, step: int) -> StepComparison:
        """Compares a step that a side and the first have computed from the same state."""
        a, b = _read_step(self.step_file(0, step)), _read_step(self.step_file(index, step))
        near = _read_step(self.near_file(step, self.coarser_dtype(index)))
        return compare_step(a, b, self.tolerance(index), near)


def _read_step(file: Path) -> StepRecord:
    try:
        return read_step(file)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise damaged(file, error) from error


def read(kind: type[Record], file: Path) -> Record:
    """Returns the record in a file of the comparison."""
    try:
        return read_record(kind, file)
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is damaged ({reason(error)}): remove it, and the same command computes it again"
    )
