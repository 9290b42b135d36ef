"""Lists images and their labels in CSV files: a path and a label in each row, beside a folder.

`labels.csv` has all images, with a column `split` or without; or `train.csv` and `val.csv` have
those of a split. Paths are relative to the folder of the CSV file, or to one folder in it, which
may be another for each split; whole paths must lie in that folder. Rows keep their order.
"""

import csv
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from keras_imnet64.core.errors import UserError, first_few
from keras_imnet64.core.files import byte_order_mark, decode_text, read_small
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import PackProgress
from keras_imnet64.data.sources.class_lists import Labels, read_class_list
from keras_imnet64.data.sources.finding import list_folder
from keras_imnet64.data.sources.image_folders import class_id
from keras_imnet64.data.sources.layout import (
    TEST,
    VALIDATION,
    enter_single_folders,
    find_layout,
    folders_between,
    join_names,
    named_splits,
    split_in,
    split_of,
)
from keras_imnet64.data.sources.listing import Listed, choose_splits
from keras_imnet64.data.stores.indexing import ImageEntry

SUFFIXES = {".csv": ",", ".tsv": "\t"}
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "wnid", "class_id", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "set")
LABELS = "labels"  # the name of a file with labels, without its suffix
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
MAX_BYTES = 2**30
ROWS_TRIED = 20  # by which the folder of the images is found, because images may be missing
MAX_LINE_BYTES = 2**16  # of the first line
MAX_COLUMNS_SHOWN = 6


@dataclass(frozen=True)
class _Row:
    """A row: the image's path below the folder of the CSV, its label, and its split or ""."""

    number: int
    path: str
    label: str
    split: str


@dataclass(frozen=True)
class _LabelFiles:
    """The CSV files that say that they have labels, the folder in which they lie, and others.

    Attributes:
        unlabelled: names of files that list test images without labels.
    """

    folder: Path
    files: list[Path]
    unlabelled: Sequence[str] = ()


def is_csv(source: Path) -> bool:
    """Returns whether a source is a CSV file of labels, or a folder labelled by such files.

    A folder is one of class folders if the files only repeat what its folders tell.

    Raises:
        UserError: a file in the folder says that it has the labels, but cannot be used, or lies in
            the folder of a split.
    """
    if not source.is_dir():
        return source.is_file() and source.suffix.lower() in SUFFIXES
    source = Path(os.path.abspath(source))  # as in `list_csv`, whose messages name the same paths
    found = _label_files(source)
    if not found.files:
        _refuse_files_in_splits(source)
        return False
    try:
        root, rows = _with_folders(found.folder, _rows_of(found))
    except UserError as error:  # without this file, the folders would become the classes
        raise UserError(f"{error}; if the folders tell the classes, move the file away") from None
    return not _repeats_folders(source, found, [(f"{root}/{row.path}", row) for _, row in rows])


def _refuse_files_in_splits(source: Path) -> None:
    """Refuses label files in the folders of splits, whose folders would become the classes."""
    root = enter_single_folders(source, stop=split_of)
    for name, split in named_splits(list_folder(root)[0]).items():
        files = _label_files(root / name).files if split != TEST else []
        if files and is_csv(root / name):
            raise UserError(
                f"{files[0]} lies in the folder of a split: put a file {name}.csv into {root} for "
                f"each split, or one file labels.csv with the column {SPLIT_COLUMNS[0]}"
            )


def list_csv(source: Path, progress: PackProgress | None = None) -> Listed:
    """Lists the images that CSV files name.

    Raises:
        UserError: a file is damaged, a row names no image, one outside, or one without a label, or
            several folders have images of the rows.
    """
    found = _label_files(source)
    folder, files = found.folder, found.files
    if len(files) > 1 and any(split_in(file.stem) is None for file in files):
        raise UserError(
            f"{folder} has {join_names(file.name for file in files)}: pass one of them as --source"
        )
    root, rows = _with_folders(folder, _rows_of(found))
    notes = [f"{name} has no labels and is left out" for name in found.unlabelled]
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


def _label_files(source: Path) -> _LabelFiles:
    """Returns the CSV files that say that they have labels: `source`, or files in this folder.

    Of folders that hold nothing but one other folder, the first with such files counts.
    """
    if not source.is_dir():
        return _LabelFiles(source.parent, [source])
    for folder in folders_between(source, enter_single_folders(source, stop=split_of)):
        tables = [file for file in list_folder(folder)[1] if file.suffix.lower() in SUFFIXES]
        found = _choose_label_files(folder, tables)
        if found.files:
            return found
    return _LabelFiles(source, [])


def _choose_label_files(folder: Path, tables: Sequence[Path]) -> _LabelFiles:
    """Returns the files among CSV files whose names or first lines say that they have labels.

    A first line says so with a column of paths and one of labels, a name with the word "labels"; of
    a file that is named like a split, one such column will do. Others, such as a table of the
    images' sizes or a sample of results to hand in, are passed over.
    """
    columns = {file: _columns_named(file) for file in tables}
    files = [file for file in tables if _is_chosen(file, columns[file])]
    unlabelled = [
        file.name
        for file in files
        if len(files) > 1 and split_of(file.stem) == TEST and columns[file] == {PATH_COLUMNS}
    ]
    return _LabelFiles(folder, [f for f in files if f.name not in unlabelled], unlabelled)


def _is_chosen(file: Path, named: set[tuple[str, ...]]) -> bool:
    is_of_split = split_of(file.stem) is not None
    return len(named) == 2 or file.stem.casefold() == LABELS or (is_of_split and bool(named))


def _columns_named(file: Path) -> set[tuple[str, ...]]:
    """Returns PATH_COLUMNS and LABEL_COLUMNS, if the first line of a file names one of them.

    The line is read in any encoding and with any separator, so that a label file is recognised
    that `_rows` then refuses.
    """
    if not file.is_file():
        return set()
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_LINE_BYTES)
    except OSError:
        return set()
    if byte_order_mark(content) is None:
        content = content.replace(b"\0", b"")  # of UTF-16
    line = next(iter(decode_text(content, "replace").splitlines()), "")
    names = {name.strip(" \"'").casefold() for name in re.split(r"[,;\t|]", line)}
    return {known for known in (PATH_COLUMNS, LABEL_COLUMNS) if names.intersection(known)}


def _rows_of(found: _LabelFiles) -> list[tuple[Path, _Row]]:
    """Returns all rows, each with its file.

    Raises:
        UserError: a file cannot be used, or has no rows.
    """
    all_rows: list[tuple[Path, _Row]] = []
    for file in found.files:
        rows = [(file, row) for row in _rows(file)]
        if not rows:
            raise UserError(
                f"{file} names no images: add a row for each image below its first line"
            )
        all_rows += rows
    return all_rows


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
    path_below = _path_below(file.parent, name)
    if path_below is None:
        raise UserError(
            f"{file}: row {number} names {name}, which points outside the folder of the CSV: move "
            "the CSV to a folder that holds all its images, and write the paths from there"
        )
    said = cells[split].strip() if split is not None else ""
    return _Row(number, path_below, cells[label].strip(), said)


def _path_below(folder: Path, name: str) -> str | None:
    """Returns the path of an image below the folder of its CSV; None if it points outside.

    Args:
        name: relative to the folder, or to a folder in it, or the whole path of an image in it.
    """
    path = PurePosixPath(name)
    if ".." in path.parts or "\0" in name or re.match(r"[A-Za-z]:/", name):
        return None
    if not path.is_absolute():
        return path.as_posix()
    for known in (os.path.abspath(folder), os.path.realpath(folder)):
        if path.is_relative_to(known):
            return path.relative_to(known).as_posix()
    return None


def _with_folders(
    folder: Path, rows: Sequence[tuple[Path, _Row]]
) -> tuple[Path, list[tuple[Path, _Row]]]:
    """Returns the folder below which all images lie, and the rows with their paths below it.

    The rows of each file, and of each split in it, have a folder of images of their own.
    """
    parts: dict[tuple[Path, str | None], list[tuple[int, _Row]]] = {}
    for number, (file, row) in enumerate(rows):
        parts.setdefault((file, split_in(row.split or file.stem)), []).append((number, row))
    if any(split == VALIDATION for _, split in parts):  # test images are not used, or even there
        parts = {part: numbered for part, numbered in parts.items() if part[1] != TEST}
    roots = {
        part: _image_root(folder, *part, [row for _, row in numbered])
        for part, numbered in parts.items()
    }
    first, *others = set(roots.values())
    if not others:
        return first, list(rows)
    placed = list(rows)
    for part, numbered in parts.items():
        below = roots[part].relative_to(folder)
        for number, row in numbered:
            placed[number] = (part[0], replace(row, path=(below / row.path).as_posix()))
    return folder, placed


def _image_root(folder: Path, file: Path, split: str | None, rows: Sequence[_Row]) -> Path:
    """Returns the folder below which the images of rows lie: that of the CSV, or one in it.

    Args:
        folder: that of the CSV file.
        split: that of the rows, if they state one. Of several folders with such images, the one
            that is named like it counts.

    Raises:
        UserError: no folder has such images, or several have them.
    """
    tried = rows[:ROWS_TRIED]
    if any(os.path.isfile(folder / row.path) for row in tried):
        return folder
    found: dict[str, str] = {}  # name of a folder -> the first of the images in it
    for name in list_folder(folder)[0]:
        paths = (row.path for row in tried if os.path.isfile(folder / name / row.path))
        if path := next(paths, None):
            found[name] = path
    if not found:
        raise UserError(
            f"{file} names {rows[0].path}, which is not below {folder}: put the CSV beside the "
            "folder of its images"
        )
    named = [name for name in found if split and split_in(name) == split]
    chosen = named if len(named) == 1 else list(found)
    if len(chosen) > 1:
        name = chosen[0]
        raise UserError(
            f"{file} names {found[name]}, and each of the folders {join_names(chosen)} has images "
            f"that it names: write the folder into its paths, as in {name}/{found[name]}"
        )
    return folder / chosen[0]


def _repeats_folders(source: Path, found: _LabelFiles, images: Sequence[tuple[str, _Row]]) -> bool:
    """Returns whether label files say no more than the class folders in which the images lie.

    They state no split, and each label is the name of the image's class folder. Numbers count too,
    if each class folder has one of its own and no list of classes gives them other names.

    Args:
        images: the path of each image, and its row.
    """
    is_split = len(found.files) > 1 and all(split_in(file.stem) for file in found.files)
    if is_split or any(row.split for _, row in images):
        return False
    labels = {unicodedata.normalize("NFC", row.label) for _, row in images}
    try:
        layout = find_layout(source)
        tops = [layout.root]
        if layout.splits is not None:
            names = (layout.splits.train, layout.splits.validation)
            tops = [enter_single_folders(layout.root / n, labels.__contains__) for n in names]
    except UserError:  # the folders alone would be refused
        return False
    pairs = {
        (_folder_below(tops, path), unicodedata.normalize("NFC", row.label)) for path, row in images
    }
    folders = {folder for folder, _ in pairs}
    if None in folders or len(folders) < 2:
        return False
    if all(folder == label for folder, label in pairs):
        return True
    is_numbered = all(NUMBER.fullmatch(label) for label in labels)
    is_one_to_one = len(pairs) == len(folders) == len(labels)
    return is_numbered and is_one_to_one and read_class_list(found.folder) is None


def _folder_below(tops: Sequence[Path], image: str) -> str | None:
    """Returns the class of an image by its folder, which lies in one of `tops`; else None."""
    for top in tops:
        folder, _, rest = image.removeprefix(f"{top}/").partition("/")
        if image.startswith(f"{top}/") and rest:
            return class_id(folder)
    return None


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
