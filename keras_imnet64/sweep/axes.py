"""The keys that a sweep varies and their values, from `--grid` and from lists in a recipe.

A list in a recipe is a list of values to try if the type of its key takes no list, or a list of
fewer levels: `learning_rate = [0.1, 0.2]` are two values, `epochs = [10, 20]` of the schedule
"step" is one, and `epochs = [[10, 20], [15, 25]]` are two.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.tables import Table, TaggedTable
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.recipe.loading import (
    TAGGED_TABLES,
    index_in,
    merge_item,
    override,
    parse_assignment,
)
from keras_imnet64.recipe.schema import Recipe

Annotation: TypeAlias = Any  # of a field: a class, a union or an alias have no type in common

SEED = ("train", "seed")
NOT_VARIED = {  # by table or key; the reason follows "a sweep cannot vary <key>, "
    "name": "the name of the recipe",
    "data.dataset": "because its cells must be scored on the same held-out images",
    "data.classes": "because its cells must be scored on the same held-out images",
    "data.holdout": "because its cells must be scored on the same held-out images",
    "train.select_on": "because the best cell is chosen on held-out images only",
    "evaluation": "because its cells must be scored in the same way",
    "reference": "which states a published result and changes no run",
    "measured": "which states a measured result and changes no run",
}


@dataclass(frozen=True)
class Axis:
    """A key that a sweep varies.

    Attributes:
        path: the parts of the key; numbers of lists are digits, as in ("augment", "0", "padding").
    """

    path: tuple[str, ...]
    values: tuple[Json, ...]

    @property
    def key(self) -> str:
        return ".".join(self.path)


# ------------------------------------------------------------------------------- from the command


def parse_axis(line: str, option: str = "--grid", other_example: str = "") -> Axis:
    """Returns the axis of "optimizer.learning_rate=0.01,0.1".

    Args:
        option: of the command, for the message.
        other_example: what else the option takes, such as " or ...".
    """
    key, equals, values = line.partition("=")
    try:
        content: Json = parse_assignment(f"{key}{equals}[{values}]")
    except ValueError:
        raise UserError(
            f"{option} takes key=value,value in TOML, such as optimizer.learning_rate=0.01,0.1 or "
            f'\'optimizer.name="sgd","adamw"\'{other_example}; received {line!r}'
        ) from None
    path = []
    while isinstance(content, dict):
        ((part, content),) = content.items()
        path.append(part)
    return Axis(tuple(path), tuple(content))


# ------------------------------------------------------------------------- from lists in a recipe


def take_axes(content: JsonObject) -> list[Axis]:
    """Returns the keys of a recipe whose values are lists although their types take no such list.

    Each list is replaced by its first value; lists of tables by an empty table, so that the options
    of one are not merged into another.

    Args:
        content: the recipe's plain values, which are not checked.
    """
    axes = list(_axes_of_table(content, [Recipe], ()))
    for axis in axes:
        holder: Json = content
        for part in axis.path[:-1]:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        first = axis.values[0] if axis.values else None
        holder[axis.path[-1]] = {} if isinstance(first, dict) else first
    return axes


def _axes_of_table(
    table: JsonObject, kinds: Sequence[type[Table]], path: tuple[str, ...]
) -> Iterator[Axis]:
    """Yields the axes in a table, which may be of any of these kinds."""
    takes_any_key = any(kind.model_config.get("extra") == "allow" for kind in kinds)
    for key, value in table.items():
        types = [kind.model_fields[key].annotation for kind in kinds if key in kind.model_fields]
        if types or not takes_any_key:  # the arguments of a Keras layer have any type
            yield from _axes_of_value(value, types, (*path, key))


def _axes_of_value(
    value: Json, types: Sequence[Annotation], path: tuple[str, ...]
) -> Iterator[Axis]:
    if isinstance(value, dict):
        tables = [table for each in types for table in _tables_in(each)]
        yield from _axes_of_table(value, _of_name(tables, value), path)
    elif isinstance(value, list):
        if _levels(value) > max(map(_list_levels, types), default=0):
            yield Axis(path, tuple(value))
            return
        for number, item in enumerate(value):
            if isinstance(item, dict):
                yield from _axes_of_value(item, types, (*path, str(number)))


def _levels(value: Json) -> int:
    """Returns how many levels of lists a value has."""
    if not isinstance(value, list):
        return 0
    return 1 + min(map(_levels, value), default=0)


def _origin(annotation: Annotation) -> Any:  # of a type, a class or a special form
    return get_origin(annotation)


def _list_levels(annotation: Annotation) -> int:
    """Returns how many levels of lists a type takes at most."""
    levels = 0
    for part in _alternatives(annotation):
        if _origin(part) in (list, tuple):
            items = [each for each in get_args(part) if each is not Ellipsis]
            levels = max(levels, 1 + max(map(_list_levels, items)))
    return levels


def _tables_in(annotation: Annotation) -> Iterator[type[Table]]:
    """Yields the tables that a type takes, alone or in a list."""
    for part in _alternatives(annotation):
        if _origin(part) is list:
            yield from _tables_in(get_args(part)[0])
        elif isinstance(part, type) and issubclass(part, Table):
            yield part


def _alternatives(annotation: Annotation) -> Iterator[Annotation]:
    """Yields the types of a union, without what is annotated."""
    origin = _origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


def _of_name(kinds: Sequence[type[Table]], table: JsonObject) -> Sequence[type[Table]]:
    """Returns the kinds that a table's name, or list of names, selects; all where none does."""
    return [kind for kind in kinds if _is_named(kind, table)] or kinds


def _is_named(kind: type[Table], table: JsonObject) -> bool:
    if not issubclass(kind, TaggedTable):
        return False
    tag = next(iter(kind.model_fields))
    named = table.get(tag)
    names = named if isinstance(named, list) else [named]
    return any(name in kind.tags() for name in names) or (tag in table and not kind.tags())


# --------------------------------------------------------------------------------- what is refused


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuses keys that a sweep cannot vary, that overlap, or that have no or equal values."""
    for number, axis in enumerate(axes):
        check_may_vary(axis.key)
        if not axis.values:
            raise UserError(f"{axis.key} has no values to try: give one or more")
        for place, value in enumerate(axis.values):
            if any(_is_same(value, earlier) for earlier in axis.values[:place]):
                raise UserError(f"{axis.key} has the value {value_text(value)} twice: remove one")
        check_overlap([other.key for other in axes[:number]], axis.key)


def check_may_vary(key: str) -> None:
    """Refuses a key whose values make cells that cannot be compared."""
    for other, why in NOT_VARIED.items():
        if key == other or key.startswith(f"{other}."):
            raise UserError(f"a sweep cannot vary {key}, {why}: give it one value")
        if other.startswith(f"{key}."):
            raise UserError(
                f"a sweep cannot vary {key} as a whole, which has {other}: vary other keys of it"
            )


def check_overlap(earlier_keys: Iterable[str], key: str) -> None:
    """Refuses a key that others set too."""
    for other in earlier_keys:
        if key == other:
            raise UserError(f"a sweep has {key} twice: give all its values at once")
        if key.startswith(f"{other}.") or other.startswith(f"{key}."):
            raise UserError(f"a sweep varies {other} and {key}, and each sets the other's value")


def _is_same(a: Json, b: Json) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


# ------------------------------------------------------------------------------- values in a recipe


def with_values(
    content: JsonObject, axes: Sequence[Axis], values: Sequence[Json], seed: int | None
) -> JsonObject:
    """Returns a copy of a recipe's content with one value of each axis.

    Names of networks, optimizers, schedules and augmentations come first: another name drops the
    options of the one before, and other axes may set options of the new one.

    Args:
        seed: the value of train.seed; None leaves it as it is.
    """
    changed = copy.deepcopy(content)
    pairs = sorted(zip(axes, values, strict=True), key=lambda pair: not _sets_a_name(pair[0]))
    for axis, value in pairs:
        _set_value(changed, axis, copy.deepcopy(value))
    if seed is not None:
        override(changed, {"train": {"seed": seed}})
    return changed


def _sets_a_name(axis: Axis) -> bool:
    if axis.path[0] == "augment":
        return axis.path[2:] in ((), ("op",), ("layer",))
    names = ((), ("name",), ("base",), ("base", "name"))
    return axis.path[0] in TAGGED_TABLES and axis.path[1:] in names


def _set_value(content: JsonObject, axis: Axis, value: Json) -> None:
    holder: Json = content
    for depth, part in enumerate(axis.path):
        if isinstance(holder, list):
            _set_in_list(holder, axis, depth, value)
            return
        holder = holder.get(part) if isinstance(holder, dict) else None
    override(content, _nested(axis.path, value))


def _set_in_list(items: list[Json], axis: Axis, depth: int, value: Json) -> None:
    """Sets a value in a list of tables, whose number stands at `depth` of the axis' path."""
    number, rest = axis.path[depth], axis.path[depth + 1 :]
    index = index_in(items, number, ".".join(axis.path[:depth]))
    if rest:
        merge_item(items, index, _nested(rest, value))
    else:
        items[index] = value


def _nested(path: Sequence[str], value: Json) -> JsonObject:
    """Returns {"a": {"b": value}} for ("a", "b")."""
    for part in reversed(path):
        value = {part: value}
    nested: JsonObject = value
    return nested


# -------------------------------------------------------------------------------------- for people


def value_text(value: Json) -> str:
    """Returns a value as tables and pictures show it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each key, or the whole key where that says too little."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: key if last.count(short) > 1 or short in ("name", "op") else short
        for key, short in zip(keys, last, strict=True)
    }
