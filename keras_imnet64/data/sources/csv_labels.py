"""Lists images and their labels in CSV files: a path and a label in each row, beside a folder.

`labels.csv` has all images, with a column `split` or without; or `train.csv` and `val.csv` have
those of a split. Paths are relative to the folder of the CSV file, or to one folder in it. Rows
keep their order.
"""

import csv
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from keras_imnet64.core.errors import UserError, first_few
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import PackProgress
from keras_imnet64.data.sources.class_lists import Labels, read_class_list
from keras_imnet64.data.sources.finding import list_folder
from keras_imnet64.data.sources.layout import join_names, split_in
from keras_imnet64.data.sources.listing import Listed, choose_splits
from keras_imnet64.data.stores.indexing import ImageEntry

SUFFIXES = {".csv": ",", ".tsv": "\t"}
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "wnid", "class_id", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "set")
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
MAX_BYTES = 2**30
MAX_COLUMNS_SHOWN = 6


@dataclass(frozen=True)
class _Row:
    """A row: the image's path below the folder of the CSV, its label, and its split or ""."""

    number: int
    path: str
    label: str
    split: str


def is_csv(source: Path) -> bool:
    """Returns whether a source is a CSV file of labels, or a folder labelled by such files.

    A folder whose folders tell the classes of the images already is one of class folders.
    """
    if source.is_file():
        return source.suffix.lower() in SUFFIXES
    files = _csv_files(source)
    try:
        rows = [row for file in files for row in _rows(file)]
    except UserError:
        return False  # a CSV of something else
    root = _image_root(source, rows) if rows else None
    return root is not None and not _folders_tell_classes(rows)


def list_csv(source: Path, progress: PackProgress | None = None) -> Listed:
    """Lists the images that CSV files name.

    Raises:
        UserError: a file is damaged, or a row names no image, one outside, or one without a label.
    """
    folder = source.parent if source.is_file() else source
    files = [source] if source.is_file() else _csv_files(source)
    if len(files) > 1 and any(split_in(file.stem) is None for file in files):
        raise UserError(
            f"{folder} has {join_names(file.name for file in files)}: pass one of them as --source"
        )
    rows = [(file, row) for file in files for row in _rows(file)]
    if not rows:
        raise UserError(
            f"{files[0]} names no images: add a row for each image below its first line"
        )
    root = _image_root(folder, [row for _, row in rows])
    if root is None:
        raise UserError(
            f"{files[0]} names {rows[0][1].path}, which is not below {folder}: put the CSV beside "
            "the folder of its images"
        )
    notes: list[str] = []
    splits = choose_splits(_splits(rows, len(files) > 1), notes)
    labels = Labels(str(source), read_class_list(folder))
    spellings: dict[int, str] = {}
    entries = {
        split: _list_rows(split, chosen, labels, spellings) for split, chosen in splits.items()
    }
    labels.refuse_numbers_as_names()
    _refuse_doubles(source, entries)
    if progress:
        progress("listing rows", len(rows), len(rows))
    return Listed("CSV", root, labels, entries, notes=notes)


def _list_rows(
    split: str, rows: Sequence[tuple[Path, _Row]], labels: Labels, spellings: dict[int, str]
) -> list[ImageEntry]:
    """Returns an entry for each row, and adds its label: a number if all labels are numbers.

    Args:
        spellings: receives how each number is written; "01" and "1" may be two classes.
    """
    is_numbered = all(NUMBER.fullmatch(row.label) for _, row in rows)
    numbers = labels.numbers.setdefault(split, [])
    entries: list[ImageEntry] = []
    for file, row in rows:
        where = f"{file}: row {row.number}, {row.path},"
        if is_numbered:
            first = spellings.setdefault(int(row.label), row.label)
            if first != row.label:
                raise UserError(
                    f"{where} is labelled {row.label}, and an image before it {first}: write each "
                    "number in one way"
                )
        labels.add(split, int(row.label) if is_numbered else row.label, where, row.path)
        entries.append(ImageEntry(row.path, numbers[-1]))
    return entries


def _csv_files(folder: Path) -> list[Path]:
    """Returns the CSV files of a folder that have columns of paths and labels."""
    if not folder.is_dir():
        return []
    found = [file for file in list_folder(folder)[1] if file.suffix.lower() in SUFFIXES]
    return [file for file in found if _has_columns(file)]


def _has_columns(file: Path) -> bool:
    try:
        return next(_rows(file), None) is not None
    except UserError:
        return False


def _rows(file: Path) -> Iterator[_Row]:
    """Yields the rows of a CSV file.

    Raises:
        UserError: it has no columns of paths and labels, or a row has no path or no label.
    """
    try:
        text = decode_text(read_small(file, MAX_BYTES))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {os_error_text(error, file)}") from None
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    delimiter = SUFFIXES.get(file.suffix.lower(), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().casefold() for name in next(lines, [])]
        path, label, split = (
            next((header.index(name) for name in known if name in header), None)
            for known in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
        )
        if path is None or label is None:
            shown = first_few([f'"{name}"' for name in header], MAX_COLUMNS_SHOWN)
            is_one = len(header) == 1 and any(mark in header[0] for mark in ";\t|")
            advice = " (separate the columns with commas)" if is_one else ""
            raise UserError(
                f"{file} needs a first line with the columns {PATH_COLUMNS[0]} and "
                f"{LABEL_COLUMNS[0]}{advice}; received {shown or 'nothing'}"
            )
        for number, cells in enumerate(lines, start=2):
            if cells:
                yield _row(file, number, cells, path, label, split)
    except csv.Error as error:
        raise UserError(f"{file} is not a whole CSV file ({error})") from None


def _row(
    file: Path, number: int, cells: Sequence[str], path: int, label: int, split: int | None
) -> _Row:
    if max(path, label, split or 0) >= len(cells):
        raise UserError(f"{file}: row {number} has {len(cells)} cells, fewer than the first line")
    name = cells[path].strip().replace("\\", "/")
    if not name or not cells[label].strip():
        lacking = "path" if not name else "label"
        raise UserError(f"{file}: row {number} has no {lacking}")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:/", name):
        raise UserError(
            f"{file}: row {number} names {name}, which points outside the folder of the CSV"
        )
    said = cells[split].strip() if split is not None else ""
    return _Row(number, PurePosixPath(name).as_posix(), cells[label].strip(), said)


def _image_root(folder: Path, rows: Sequence[_Row]) -> Path | None:
    """Returns the folder below which the images lie, by the first row: `folder`, or one in it."""
    for candidate in (folder, *(folder / name for name in list_folder(folder)[0])):
        if os.path.isfile(candidate / rows[0].path):
            return candidate
    return None


def _folders_tell_classes(rows: Sequence[_Row]) -> bool:
    """Returns whether each folder has images of one label, and there are several."""
    labels: dict[PurePosixPath, set[str]] = {}
    for row in rows:
        labels.setdefault(PurePosixPath(row.path).parent, set()).add(row.label)
    return len(labels) > 1 and all(len(each) == 1 for each in labels.values())


def _splits(rows: Sequence[tuple[Path, _Row]], by_file: bool) -> dict[str, list[tuple[Path, _Row]]]:
    """Returns {split: its rows}, by the column or by the names of files; "" without either."""
    splits: dict[str, list[tuple[Path, _Row]]] = {}
    for file, row in rows:
        split = split_in(file.stem) if by_file else ""
        if row.split:
            split = split_in(row.split)
        if split is None:
            raise UserError(
                f'{file}: row {row.number} is of the split "{row.split}"; train, validation or '
                "test is needed"
            )
        splits.setdefault(split, []).append((file, row))
    if "" in splits and len(splits) > 1:
        file, row = splits[""][0]
        raise UserError(f"{file}: row {row.number} has no split, and others have one")
    return splits


def _refuse_doubles(source: Path, entries: dict[str, list[ImageEntry]]) -> None:
    seen: set[str] = set()
    for image in itertools.chain(*entries.values()):
        if image.name in seen:
            raise UserError(f"{source} names {image.name} twice: keep one of its rows")
        seen.add(image.name)
