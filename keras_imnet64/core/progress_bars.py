"""A progress bar for work that reports (description, done, total), such as packing a data set."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from keras_imnet64.core.activity import Activity, resume, suspend


class PackingBar:
    """Shows progress within a `with` block, in which it is called as (description, done, total).

    On a terminal each description has a bar on standard error. Elsewhere it is an activity, with a
    line when it first appears and one every 30 seconds.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress: Progress | None = None
        self.bars: dict[str, TaskID | None] = {}
        self.activity: Activity | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def __call__(self, description: str, done: int, total: int) -> None:
        if description not in self.bars:
            self._begin(description, total)
        bar = self.bars[description]
        if self.progress is not None and bar is not None:
            self.progress.update(bar, completed=done, total=total)
            if self.progress.finished:
                self._stop()  # other output may follow
        elif self.activity is not None:
            self.activity.text = f"{description} {100 * done / total:.0f} %"
            if done == total:
                self._stop()

    def _begin(self, description: str, total: int) -> None:
        self.bars[description] = None
        if not self.console.is_terminal:
            self._stop()
            self.activity = Activity(description, at_once=True, steady=True)
            self.activity.start()
            return
        if self.progress is None:
            text, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:.0f} %")
            columns = (text, BarColumn(), percent, TimeRemainingColumn())
            self.progress = Progress(*columns, console=self.console)
            suspend()
            self.progress.start()
        self.bars[description] = self.progress.add_task(description, total=total)

    def _stop(self) -> None:
        if self.activity is not None:
            self.activity.stop()
            self.activity = None
        if self.progress is not None:
            self.progress.stop()
            resume()
            self.progress = None
            self.bars = dict.fromkeys(self.bars)
