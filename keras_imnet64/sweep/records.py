"""sweep.json: what a sweep varies, what its cells have reached, and which of them is the best."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from keras_imnet64.core.types import JsonObject

KIND: TypeAlias = Literal["keras_imnet64 sweep"]
# finished: with final scores; not finite: ended by a loss or weight that is not finite; pruned: as
# hopeless; begun: interrupted, or being trained; waiting: not begun.
State: TypeAlias = Literal["finished", "not finite", "pruned", "begun", "waiting"]


@dataclass(frozen=True)
class CellRecord:
    """A cell: a run in the folder of the sweep.

    Attributes:
        folder: its run folder, within that of the sweep.
        values: {dotted key: value} of the keys that the sweep varies.
        val_top1: accuracy in percent on the held-out images after the best epoch; of a cell that is
            not finished, after the best so far.
        epoch: that epoch, counted from 1.
        epochs: the number of epochs that are trained.
        seconds: wall clock of the training, as in metrics.json.
    """

    number: int
    folder: str
    values: JsonObject
    seed: int
    state: State
    val_top1: float | None = None
    epoch: int | None = None
    epochs: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class SettingRecord:
    """A combination of values, with the scores of its cells, which differ in their seeds.

    Attributes:
        values: {dotted key: value}.
        cells: the numbers of its cells.
        num_finished: of these, how many are finished; the scores are of them.
        mean: of `CellRecord.val_top1`; None if no cell is finished.
        spread: the standard deviation over the seeds; None for fewer than two.
    """

    values: JsonObject
    cells: list[int]
    num_finished: int
    mean: float | None
    spread: float | None


@dataclass(frozen=True)
class FinalScores:
    """Scores of best.keras of the best setting's cells on the validation split.

    Nothing is chosen by them. All are in percent.

    Attributes:
        spread: the standard deviation of the top-1 over the seeds; None for fewer than two.
    """

    top1: float
    top5: float
    spread: float | None
    num_images: int


@dataclass(frozen=True)
class RangeRecord:
    """A range of numbers from which a search draws.

    Attributes:
        is_log: whether the logarithm is drawn evenly.
        is_whole: whether only whole numbers are drawn.
    """

    low: float
    high: float
    is_log: bool
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """sweep.json.

    Attributes:
        name: of the recipe.
        recipe: TOML text of the recipe of the first cell; of a search, of one within its ranges.
        keys: {dotted key: the values to try} in the order of the settings.
        ranges: {dotted key: range} of a search.
        seeds: the values of train.seed.
        trials: the number of trials of a search; None for a grid.
        held_out: the number of training images on which the cells are compared.
        best: the index of the best setting; None as long as none is finished.
        best_scores: see `FinalScores`.
    """

    kind: KIND = "keras_imnet64 sweep"
    name: str
    recipe: str
    keys: dict[str, list[object]]
    ranges: dict[str, RangeRecord]
    seeds: list[int]
    trials: int | None
    held_out: int
    cells: list[CellRecord]
    settings: list[SettingRecord]
    best: int | None = None
    best_scores: FinalScores | None = None

    def __post_init__(self) -> None:
        if self.best is not None and not 0 <= self.best < len(self.settings):
            raise ValueError("its best setting is not among its settings")
        numbers = range(len(self.cells))
        for setting in self.settings:
            if not setting.cells or any(number not in numbers for number in setting.cells):
                raise ValueError("the cells of a setting are not among its cells")
