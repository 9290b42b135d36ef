"""How results look on standard output: a line of JSON, key and value lines, tables; where to.

Text from files and data sets is shown with its control characters escaped. Colour is left to the
progress bars, and to a terminal; NO_COLOR takes it from them.
"""

import json
import math
import os
import sys
from functools import cache
from pathlib import Path

import click

from keras_imnet64.errors import UserError, printable
from keras_imnet64.files import check_writable, denied

LONGEST_NAME = 200  # bytes; most file systems take 255, and a writer needs some


def check_output_file(path, suffix):
    """Refuse, before any work, a file that could not be written at its end, or is something else.

    Raises:
        UserError: its suffix is another; a folder, link or device has its name; its folder does not
            exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"{path} must be a file whose name ends in {suffix}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path} must have a name of at most {LONGEST_NAME} bytes")
    try:
        check_writable(path.parent, must_exist=True)
        is_other = path.is_symlink() or (path.exists() and not path.is_file())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be written: {denied(error, path.parent)}; choose a folder that exists "
            "and can be written to"
        ) from error
    if is_other:
        raise UserError(f"{path} exists and is not a plain file; name another")


def refuse_existing(target):
    """Refuse a place for a result where something is, be it a broken link."""
    if os.path.lexists(target):
        raise UserError(
            f"{target} exists and is never overwritten: remove it, or name another place with --out"
        )


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
