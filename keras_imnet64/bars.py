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
        self.bars = {}

    def __enter__(self):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
        )
        self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console)
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *error):
        if self.console.is_terminal:
            self.progress.stop()

    def __call__(self, description, done, total):
        if description not in self.bars:
            self.bars[description] = self.progress.add_task(description, total=total)
            if not self.console.is_terminal:
                self.console.print(f"{description} ...", markup=False)
        self.progress.update(self.bars[description], completed=done, total=total)
