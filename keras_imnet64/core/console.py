"""Prints results (JSON, lines of keys and values, tables) and messages for the user.

Results go to standard output, messages to standard error. Control characters in texts from files
and data sets are escaped. Colour appears on terminals only, and NO_COLOR turns it off.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import click

from keras_imnet64.core.activity import printing, suspend
from keras_imnet64.core.errors import printable
from keras_imnet64.core.types import Json

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "-"  # stands for no value
NUMBER = re.compile(r"(-?\d[\d.,]*(e[-+]\d+)?|-?inf|nan)( \S+)?$")


@cache
def console() -> Console:
    """Returns the rich console on standard error, for messages and progress."""
    from rich.console import Console

    if _is_silent:
        return Console(quiet=True, force_terminal=False)
    return Console(stderr=True, highlight=False)


_is_silent = False


def say_nothing() -> None:
    """Shows no messages, activities and bars from now on, but for those of `announce`.

    For a process beside another one that tells the same.
    """
    global _is_silent
    _is_silent = True
    console.cache_clear()
    suspend()


def say(text: str) -> None:
    """Prints one line on standard error, as a message for the user."""
    with printing():
        console().print(text, markup=False, soft_wrap=True)


def announce(text: str) -> None:
    """Prints one line on standard error, even after `say_nothing`."""
    with printing():
        click.echo(printable(text), err=True)


def show(result: Mapping[str, Json], as_json: bool) -> None:
    """Prints a dict as one line of JSON, or each key and value on a line of its own."""
    if as_json:
        click.echo(json.dumps(_finite(result), allow_nan=False))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {text_of(v)}" for k, v in value.items())
        click.echo(f"{key:<14} {text_of(value)}")


def write_text(text: str) -> None:
    """Writes a text to standard output, unchanged except for control characters on a terminal."""
    if sys.stdout.isatty():
        text = "".join(f"{printable(line)}\n" for line in text.splitlines())
    sys.stdout.write(text)


def show_table(
    rows: Sequence[Mapping[str, Json]], columns: Mapping[str, str], group: str | None = None
) -> None:
    """Prints rows as a table, or as blocks of lines where the terminal is too narrow for one.

    Args:
        rows: plain values by column key.
        columns: {column key: heading}. Columns of numbers, with units or without, are aligned to
            the right.
        group: a key whose value stands on a line of its own above the rows that follow each other
            with it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.header_style = "bold"
    for key, heading in columns.items():
        texts = [text_of(row[key]) for row in rows]
        numbers = all(text == NOTHING or NUMBER.match(text) for text in texts)
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    above = None
    for row in rows:
        if group and row[group] != above:
            if above is not None:
                table.add_row()
            above = row[group]
            table.add_row(Text(text_of(above), style="bold"))
        table.add_row(*(Text(text_of(row[key])) for key in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe does not wrap lines
    if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
        with console.capture() as printed:
            console.print(table)
        for line in printed.get().splitlines():
            click.echo(line.rstrip())
        return
    above = None
    for row in rows:
        if group and row[group] != above:
            above = row[group]
            click.echo(f"{text_of(above)}\n")
        for key, heading in columns.items():
            click.echo(f"{heading:<14} {text_of(row[key])}")
        click.echo()


def _finite(value: Json) -> Json:
    """Returns the value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value: Json) -> str:
    """Formats a value for people: short floats, thousands separators, "-" for none."""
    if value is None or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    return printable(value)
