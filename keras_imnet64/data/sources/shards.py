"""Groups the files of a sharded source by split, in the order of their numbers, and finds gaps.

Known names are those of hubs and tools: `train-00000-of-00040.parquet`, also with a digest before
the suffix, `imagenet-val-000001.tar`, `validation/0003.parquet`, `train.parquet`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.finding import SourceFiles, files_below
from keras_imnet64.data.sources.layout import join_names, split_in

SHARD_SUFFIXES = (".parquet", ".tar")
MAX_STRAY_IMAGES = 100  # beside shards, such as those that a description shows
NUMBERED = re.compile(
    r"(?P<prefix>.*?)[-_.]?(?P<number>\d{1,6})(-of-(?P<total>\d{1,6}))?(-[0-9a-f]{16})?", re.ASCII
)


@dataclass(frozen=True)
class Shard:
    """A file of a sharded source.

    Attributes:
        series: the folder and the beginning of the name, which all shards of a split share.
        number, total: as its name states them, or None.
        split: as its name or its folder's name states it; "" if neither does.
    """

    path: Path
    series: str
    number: int | None
    total: int | None
    split: str


def holds_shards(files: SourceFiles, suffix: str) -> bool:
    """Returns whether a source consists of shards with this suffix, also beside a few images.

    A shard holds many images, so that a few images in one folder, which cannot be class folders, do
    not count beside files that are named like shards.
    """
    if files.mostly(suffix):
        return True
    if len(files.image_folders) > 1 or files.num_images > MAX_STRAY_IMAGES:
        return False
    return any(_is_shard(name, suffix) and _is_named_like_one(name) for name in files.names)


def _is_named_like_one(name: str) -> bool:
    stem = name.split(".")[0]
    return bool(NUMBERED.fullmatch(stem) or split_in(stem))


def find_shards(source: Path, suffix: str) -> list[Path]:
    """Returns the files with this suffix, in any case: `source` itself, or those below it, sorted.

    Raises:
        UserError: a folder cannot be listed.
    """
    if source.is_file():
        return [source] if has_suffix(source.name, suffix) else []
    try:
        return sorted(file for file in files_below(source) if _is_shard(file.name, suffix))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from None


def has_suffix(name: str, suffix: str) -> bool:
    """Returns whether the name of a file has this suffix, in any case."""
    return name.lower().endswith(suffix)


def _is_shard(name: str, suffix: str) -> bool:
    return has_suffix(name, suffix) and not name.startswith((".", "_"))


def shards_by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Returns {split: its shards in the order of their numbers}.

    Args:
        files: all shards.
        root: the folder below which they lie; names of folders above it say nothing.

    Returns:
        Keys are train, validation and test, or "" for shards without the name of a split.

    Raises:
        UserError: there are none, one is missing, or a split has two series of shards.
    """
    splits: dict[str, list[Shard]] = {}
    if not files:
        raise UserError(
            f"{root} holds no shards whose names begin with neither a dot nor an underscore: "
            "rename them"
        )
    for file in files:
        shard = _parse(file, root)
        splits.setdefault(shard.split, []).append(shard)
    if "" in splits and len(splits) > 1:
        raise UserError(
            f"{splits[''][0].path} is of no split, while others below {root} are of "
            f"{join_names(sorted(splits.keys() - {''}))}: rename it, or move it away"
        )
    return {split: _in_order(split, shards, root) for split, shards in splits.items()}


def _parse(file: Path, root: Path) -> Shard:
    """Returns what the name of a shard says."""
    stem = file.name.split(".")[0]
    match = NUMBERED.fullmatch(stem)
    prefix = match["prefix"] if match else stem
    folders = file.relative_to(root).parent.parts if file.is_relative_to(root) else ()
    split = next(filter(None, map(split_in, (prefix, *reversed(folders)))), "")
    return Shard(
        path=file,
        series="/".join((*folders, prefix)),
        number=int(match["number"]) if match else None,
        total=int(match["total"]) if match and match["total"] else None,
        split=split,
    )


def _in_order(split: str, shards: list[Shard], root: Path) -> list[Path]:
    """Returns the shards of a split in order, after checking that none is missing."""
    name = split or "all images"
    series = sorted({shard.series for shard in shards})
    if len(series) > 1:
        first, second = (next(s.path for s in shards if s.series == each) for each in series[:2])
        raise UserError(
            f"{root} has two series of shards for {name}, such as {first.name} in {first.parent} "
            f"and {second.name} in {second.parent}: pass the folder of one as --source"
        )
    totals = {shard.total for shard in shards}
    if len(totals) > 1:
        sizes = sorted(str(total or "an unknown number of") for total in totals)
        raise UserError(
            f"{root} has shards for {name} of two sets, of {join_names(sizes)} shards: "
            "move those of one set away"
        )
    _refuse_gaps(name, shards, root, totals.pop())
    return [shard.path for shard in sorted(shards, key=lambda shard: shard.number or 0)]


def _refuse_gaps(name: str, shards: list[Shard], root: Path, total: int | None) -> None:
    if len(shards) == 1 and total is None:  # its number may be a date
        return
    numbers = sorted(shard.number for shard in shards if shard.number is not None)
    first = 0 if total is not None else min(numbers, default=0)
    first = first if first <= 1 else 0
    last = total - 1 if total is not None else max(numbers, default=-1)
    if missing := sorted(set(range(first, last + 1)) - set(numbers)):
        raise UserError(
            f"{root} is not complete: of the {last - first + 1:,} shards for {name}, "
            f"{join_names(f'number {number}' for number in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    if len(numbers) != len(set(numbers)) or not numbers:
        raise UserError(f"{root} has two shards for {name} with the same number")
