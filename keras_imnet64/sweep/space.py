"""What a search may choose: values in a list, and ranges of numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.recipe.loading import parse_toml
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.sweep.axes import (
    SEED,
    Axis,
    check_axes,
    check_may_vary,
    check_overlap,
    parse_axis,
    with_values,
)
from keras_imnet64.sweep.plan import check_cell_recipe

Number: TypeAlias = int | float

LOG = ":log"
DIGITS = 4  # significant ones of a number that is drawn, so that recipes can be read


@dataclass(frozen=True)
class Range:
    """A range of whole numbers if both ends are such, else of numbers."""

    path: tuple[str, ...]
    low: Number
    high: Number
    is_log: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Space:
    """The choices and ranges of a search."""

    axes: tuple[Axis, ...]
    ranges: tuple[Range, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return (*(axis.key for axis in self.axes), *(each.key for each in self.ranges))

    def recipe(self, content: JsonObject, values: Mapping[str, Json]) -> Recipe:
        """Returns the recipe with these values by key; UserError if it is wrong."""
        places = [*self.axes, *(Axis(each.path, ()) for each in self.ranges)]
        changed = with_values(content, places, [values[place.key] for place in places], None)
        return check_cell_recipe(changed)

    def samples(self) -> list[dict[str, Json]]:
        """Returns values at the edges of the space, by key: each choice and end once or more."""
        lows = {axis.key: axis.values[0] for axis in self.axes}
        lows |= {each.key: each.low for each in self.ranges}
        found = [lows]
        found += [lows | {axis.key: value} for axis in self.axes for value in axis.values[1:]]
        found += [lows | {each.key: each.high} for each in self.ranges]
        return found


def parse_space(line: str) -> Axis | Range:
    """Returns the range of "optimizer.learning_rate=0.001..0.3:log", or an axis of values."""
    key, _, text = line.partition("=")
    bounds, is_log = text.strip().removesuffix(LOG), text.strip().endswith(LOG)
    first, dots, last = bounds.partition("..")
    low, high = _number(first), _number(last)
    if not dots or low is None or high is None:
        return parse_axis(line, "--space", " or optimizer.learning_rate=0.001..0.3:log")
    path = parse_axis(f"{key}=0", "--space").path
    return _checked(Range(path, low, high, is_log), text)


def _number(text: str) -> Number | None:
    try:
        value = parse_toml(f"x = {text}")["x"]
    except ValueError:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _checked(bounds: Range, text: str) -> Range:
    if not bounds.low < bounds.high:
        raise UserError(
            f"--space {bounds.key} must be a range whose first number is the smaller one, such as "
            f"0.001..0.3; received {text}"
        )
    if bounds.is_log and bounds.low <= 0:
        raise UserError(
            f"--space {bounds.key} must begin above 0 to be drawn on a logarithmic scale; received "
            f"{text}"
        )
    return bounds


def make_space(parts: Sequence[Axis | Range]) -> Space:
    """Returns the space of these choices and ranges.

    Raises:
        UserError: there are none; they overlap, or cannot be varied.
    """
    axes = [part for part in parts if isinstance(part, Axis)]
    ranges = [part for part in parts if isinstance(part, Range)]
    if not parts:
        raise UserError(
            "--search has nothing to choose: give --space, such as "
            "--space optimizer.learning_rate=0.001..0.3:log, or a recipe in which a key has a list "
            "of values"
        )
    check_axes(axes)
    keys = [axis.key for axis in axes]
    for each in ranges:
        check_may_vary(each.key)
        check_overlap(keys, each.key)
        keys.append(each.key)
    if SEED in [part.path for part in parts]:
        raise UserError(
            "--search cannot choose train.seed, whose effect is chance: train the best recipe with "
            "several seeds afterwards, by --seeds"
        )
    return Space(tuple(axes), tuple(ranges))


def rounded(value: float, bounds: Range) -> float:
    """Returns a number with `DIGITS` significant digits, within its range."""
    return min(max(float(f"{value:.{DIGITS}g}"), bounds.low), bounds.high)


def choice_of(value: Json) -> str | Number | bool:
    """Returns a value as Optuna keeps it: a plain value, or a list or table as JSON."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
