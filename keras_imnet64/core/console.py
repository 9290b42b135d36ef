"""How results look on standard output: a line of JSON, key and value lines, tables; where to.

Text from files and data sets is shown with its control characters escaped. Colour is left to the
progress bars, and to a terminal; NO_COLOR takes it from them.
"""

import json
import math
import sys
from functools import cache

import click

from keras_imnet64.core.errors import printable


@cache
def console():
    """Standard error, where people watch what is going on."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text):
    """One line for the person who watches."""
    console().print(text, markup=False, soft_wrap=True)


def show(result, as_json):
    """Print a dict: one line of JSON, or a key and its value on each line."""
    if as_json:
        click.echo(json.dumps(_finite(result), allow_nan=False))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {text_of(v)}" for k, v in value.items())
        click.echo(f"{key:<14} {text_of(value)}")


def write_text(text):
    """Print a text as it is into a pipe or a file; on a terminal its odd characters are escapes."""
    if sys.stdout.isatty():
        text = "".join(f"{printable(line)}\n" for line in text.splitlines())
    sys.stdout.write(text)


def show_table(rows, columns):
    """Print rows of plain values under their headings; as blocks where the terminal is too narrow.

    Args:
        rows: list of dicts.
        columns: {key in the rows: heading}. Columns of numbers are set right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for key, heading in columns.items():
        numbers = all(isinstance(row[key], int | float | None) for row in rows)
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text_of(row[key])) for key in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no edge to wrap at
    if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        for key, heading in columns.items():
            click.echo(f"{heading:<14} {text_of(row[key])}")
        click.echo()


def _finite(value):
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value):
    """A value as people read it: short floats, counts with their thousands, "-" for nothing."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    return printable(value)
