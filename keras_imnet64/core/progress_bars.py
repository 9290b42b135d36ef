"""A progress bar for work that reports (description, done, total), such as packing a data set."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class CallBar:
    """A context manager whose value is called as `progress(description, done, total)`.

    On a terminal each description has a bar on standard error; elsewhere it has one line when it
    begins.
    """

    def __init__(self):
        self.console = Console(stderr=True, highlight=False)
        self.progress, self.bars = None, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop()

    def __call__(self, description, done, total):
        if description not in self.bars:
            self._begin(description, total)
        if self.progress is not None and self.bars[description] is not None:
            self.progress.update(self.bars[description], completed=done, total=total)
            if self.progress.finished:
                self._stop()  # the screen belongs to others now

    def _begin(self, description, total):
        self.bars[description] = None
        if not self.console.is_terminal:
            self.console.print(f"{description} ...", markup=False)
            return
        if self.progress is None:
            text, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:.0f} %")
            columns = (text, BarColumn(), percent, TimeRemainingColumn())
            self.progress = Progress(*columns, console=self.console)
            self.progress.start()
        self.bars[description] = self.progress.add_task(description, total=total)

    def _stop(self):
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
            self.bars = dict.fromkeys(self.bars)
