"""How results look on standard output: a line of JSON, key and value lines, tables.

Text from files and data sets is shown with its control characters escaped. Colour is left to the
progress bars, and to a terminal; NO_COLOR takes it from them.
"""

import json

import click

from keras_imnet64.errors import printable


def show(result, as_json):
    """Print a dict: one line of JSON, or a key and its value on each line."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {text_of(v)}" for k, v in value.items())
        click.echo(f"{key:<14} {text_of(value)}")


def show_table(rows, columns):
    """Print rows of plain values under their headings.

    Args:
        rows: list of dicts.
        columns: {key in the rows: heading}. Columns of numbers are set right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
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
    console.print(table)


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
