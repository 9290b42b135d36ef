"""Prints the result of a benchmark as a table, as Markdown or as JSON, and its changes."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from keras_imnet64.bench.record import (
    BenchRecord,
    Change,
    Ratio,
    Row,
    Timing,
    changes,
    differences,
    read_result,
)
from keras_imnet64.core.console import say, show, show_table
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import to_json

COLUMNS = {
    "name": "side",
    "dtype": "dtype",
    "forward": "forward",
    "step": "step",
    "both": "step and input",
    "input": "input",
    "compile": "first step",
    "memory": "memory",
}
CHANGE_COLUMNS = {"name": "now / before", "dtype": "dtype"} | {
    figure: COLUMNS[figure] for figure in ("forward", "step", "both", "input", "compile", "memory")
}
MARKDOWN_SIDES = {  # {name of a row: heading}
    "torch eager": "PyTorch eager",
    "torch compile": "PyTorch compile",
    "torch tuned": "PyTorch compile, allocator tuned",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
}


def show_result(
    record: BenchRecord, against: Path | None, *, as_json: bool, as_markdown: bool
) -> None:
    """Prints a result, and its change since the one in a file."""
    before = read_result(against) if against else None
    changed = list(changes(before, record)) if before else []
    for line in differences(before, record) if before else ():
        say(f"note: {line}")
    if as_json:
        since = {"against": str(against), "changes": list(map(asdict, changed))}
        show(to_json(record) | (since if before else {}), as_json)
        return
    if as_markdown:
        click.echo("\n".join(markdown(record)))
    else:
        click.echo("\n".join(heading(record)) + "\n")
        show_table(table(record), COLUMNS)
        click.echo("".join(f"\n{line}" for line in ratios_in_words(record.ratios)))
    if before:
        click.echo("\nSeconds and megabytes now, by those before: below 1 is better\n")
        show_table(change_table(changed), CHANGE_COLUMNS)


def heading(record: BenchRecord) -> Iterator[str]:
    """Yields the lines above the table: what was measured, and where."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    yield record.subject.in_words
    yield f"on {record.machine.in_words}; {versions}"
    yield (
        f"images per second, medians of {record.num_rounds} alternating rounds of about "
        f"{record.block_seconds:g} s, ± half the distance between the quartiles"
    )


def table(record: BenchRecord) -> list[JsonObject]:
    """Returns a row for each side and dtype, with texts by the keys of `COLUMNS`."""
    return [_in_words(row, record.subject.batch_size) for row in record.rows]


def _in_words(row: Row, batch_size: int) -> JsonObject:
    def rate(timing: Timing | None) -> str | None:
        if timing is None:
            return None
        return f"{_rate(timing, batch_size)} ± {100 * timing.spread:.1f} %"

    compiled, memory = row.compile_seconds, row.peak_memory_mb
    return {
        "name": row.name,
        "dtype": row.dtype,
        "forward": rate(row.forward),
        "step": rate(row.step),
        "both": rate(row.both),
        "input": rate(row.input),
        "compile": None if compiled is None else f"{compiled:.1f} s",
        "memory": None if memory is None else f"{memory:,.0f} MB",
    }


def _rate(timing: Timing, batch_size: int) -> str:
    """Formats images per second to three digits or more."""
    rate = batch_size / timing.median
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def ratios_in_words(ratios: Sequence[Ratio]) -> Iterator[str]:
    """Yields a line for each of our rows that stands beside PyTorch."""
    for ratio in ratios:
        memory = "" if ratio.memory is None else f", {ratio.memory:.2f} times the memory"
        installed = f"({ratio.step_as_installed:.2f} beside PyTorch as installed)"
        yield (
            f"{ratio.name} {ratio.dtype} / PyTorch's best: step {ratio.step:.2f} times as fast "
            f"{installed}, forward {ratio.forward:.2f}{memory}"
        )


def change_table(changes: Sequence[Change]) -> list[JsonObject]:
    """Returns a row for each side and dtype, with ratios by the keys of `CHANGE_COLUMNS`."""
    rows: dict[tuple[str, str], JsonObject] = {}
    for change in changes:
        empty = dict.fromkeys(CHANGE_COLUMNS) | {"name": change.name, "dtype": change.dtype}
        row = rows.setdefault((change.name, change.dtype), empty)
        row[change.figure] = round(change.ratio, 3)
    return list(rows.values())


def markdown(record: BenchRecord) -> Iterator[str]:
    """Yields the lines of a Markdown table of steps, with a row for each dtype.

    A cell has images per second, the ratios to the faster of PyTorch's modes as installed and to
    the fastest of all, and the peak memory.
    """
    names = [name for name in MARKDOWN_SIDES if any(row.name == name for row in record.rows)]
    yield _line(["network, batch", "dtype", *(MARKDOWN_SIDES[name] for name in names)])
    yield _line(["---"] * (2 + len(names)))
    subject = record.subject
    settings = [each for each in record.overrides if not each.startswith("data.batch_size=")]
    words = [subject.recipe, *(f"--set {shlex.quote(each)}" for each in settings)]
    what = f"`{' '.join(words)}`, {subject.batch_size}".replace("|", r"\|")
    for dtype in dict.fromkeys(row.dtype for row in record.rows):
        rows = {row.name: row for row in record.rows if row.dtype == dtype}
        ratios = {ratio.name: ratio for ratio in record.ratios if ratio.dtype == dtype}
        cells = [_cell(rows.get(name), ratios.get(name), subject.batch_size) for name in names]
        yield _line([what, dtype, *cells])
    yield ""
    yield (
        f"Images per second of a training step; PyTorch's time by ours, of its faster mode as "
        f"installed and of its fastest; peak memory: "
        f"{record.machine.in_words}, {record.date[:10]}, medians of {record.num_rounds} rounds."
    )


def _cell(row: Row | None, ratio: Ratio | None, batch_size: int) -> str:
    if row is None or row.step is None:
        return "-"
    parts = [_rate(row.step, batch_size)]
    ratios = [ratio.step_as_installed, ratio.step] if ratio else []
    parts += [" and ".join(dict.fromkeys(f"{r:.2f}" for r in ratios)) + " times"] if ratios else []
    parts += [f"{row.peak_memory_mb:,.0f} MB"] if row.peak_memory_mb is not None else []
    return ", ".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
