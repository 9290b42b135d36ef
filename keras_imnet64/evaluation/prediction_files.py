"""Files of predictions, for other programs and for `report` and `compare`: Parquet or CSV.

A row for each image of a split, with these columns:

    dataset, split      the same in all rows, so that files can be put together
    image, file         the place of the image in the split, from 0; its file, where it has its own
    label, label_name   the id and the name of its class
    label_probability   the model's probability of that class
    class_1, name_1, probability_1, ..., probability_5    the most probable classes, descending
"""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_imnet64.core.errors import UserError, first_few, reason
from keras_imnet64.core.files import csv_text, read_small, write_atomic
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.selection import Selection
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.evaluation.top_predictions import TOP, TopPredictions

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv")
MAX_BYTES = 2**31
COLUMNS = {
    "dataset": "string",
    "split": "string",
    "image": "int64",
    "file": "string",
    "label": "string",
    "label_name": "string",
    "label_probability": "float32",
}
RANKED = {"class": "string", "name": "string", "probability": "float32"}


@dataclass(frozen=True)
class StoredPredictions:
    """The content of a file of predictions.

    Attributes:
        wnids, class_names: the classes that occur in it, in the order of their ids.
        top: the predictions, whose classes are positions in `wnids`.
    """

    dataset: str
    split: str
    wnids: tuple[str, ...]
    class_names: tuple[str, ...]
    top: TopPredictions

    def in_order(self, wnids: Sequence[str], name: StrPath) -> TopPredictions:
        """Returns the predictions with classes as positions in `wnids`.

        Raises:
            UserError: the file has classes that are not among them; `name` is its name in messages.
        """
        unknown = sorted(set(self.wnids) - set(wnids))
        if unknown:
            raise UserError(
                f"{name} has predictions for other classes: {first_few(unknown)} are not among the "
                f"{len(wnids)} that are expected"
            )
        position_of = {wnid: position for position, wnid in enumerate(wnids)}
        order = np.array([position_of[wnid] for wnid in self.wnids], "int32")
        return replace(self.top, labels=order[self.top.labels], classes=order[self.top.classes])


def is_predictions_file(path: StrPath) -> bool:
    """Whether the name of a path is that of a file of predictions."""
    return Path(path).suffix.lower() in SUFFIXES


def check_predicted_images(name: StrPath, top: TopPredictions, selection: Selection) -> None:
    """Refuses predictions that are not of all images of a selection, in its order.

    Args:
        name: of the file in messages.
        top: with labels in the order of the selection's classes.
    """
    positions, labels = selection.look_up(np.arange(len(selection)))
    if not (np.array_equal(top.images, positions) and np.array_equal(top.labels, labels)):
        raise UserError(
            f"{name} has predictions for other images than those of {selection.store.dataset} "
            f"{selection.store.split} here ({len(top):,} and {len(selection):,}, or other labels)"
        )


def check_alike_images(
    first_name: StrPath, first: TopPredictions, name: StrPath, other: TopPredictions
) -> None:
    """Refuses predictions of two files that are not of the same images with the same labels."""
    is_alike = np.array_equal(first.images, other.images)
    if not (is_alike and np.array_equal(first.labels, other.labels)):
        raise UserError(
            f"{first_name} and {name} have predictions for different images ({len(first):,} and "
            f"{len(other):,}, or other labels): compare predictions for the same images"
        )


def check_predictions_file(path: StrPath) -> None:
    """Checks, before any work, that predictions can be written to a path."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} must be a file whose name ends in .parquet or .csv")
    check_output_file(path, suffix)


def write_predictions(path: StrPath, top: TopPredictions, selection: Selection) -> None:
    """Writes the predictions for a selection as Parquet or CSV, by the suffix of the path."""
    table = _table(top, selection)
    if Path(path).suffix.lower() == ".csv":
        write_atomic(path, csv_text(table.column_names, table.to_pylist()))
        return
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    write_atomic(path, file.getvalue())


def _table(top: TopPredictions, selection: Selection) -> "pa.Table":
    import pyarrow as pa

    store, count = selection.store, len(top)
    ids, names = _texts(selection.wnids), _texts(selection.class_names)
    files = [""] * count
    if isinstance(store, EncodedStore):
        files = _texts([store.source_of(position) for position in top.images]).tolist()
    columns = {
        "dataset": [store.dataset] * count,
        "split": [store.split] * count,
        "image": top.images,
        "file": files,
        "label": ids[top.labels],
        "label_name": names[top.labels],
        "label_probability": top.label_probability,
    }
    for rank in range(top.classes.shape[1]):
        classes = top.classes[:, rank]
        columns |= {
            f"class_{rank + 1}": ids[classes],
            f"name_{rank + 1}": names[classes],
            f"probability_{rank + 1}": top.probabilities[:, rank],
        }
    return pa.table(columns, schema=pa.schema(_schema(top.classes.shape[1])))


def _schema(num_ranks: int) -> dict[str, "pa.DataType"]:
    """Returns the type of each column."""
    from pyarrow import type_for_alias

    ranked = {
        f"{name}_{rank + 1}": kind for rank in range(num_ranks) for name, kind in RANKED.items()
    }
    return {name: type_for_alias(kind) for name, kind in (COLUMNS | ranked).items()}


def _texts(values: Sequence[str]) -> np.ndarray:
    """Returns texts as an object array; what is not UTF-8 is escaped, as in `csv_text`."""
    texts = np.empty(len(values), object)
    texts[:] = [value.encode(errors="backslashreplace").decode() for value in values]
    return texts


def read_predictions(path: StrPath) -> StoredPredictions:
    """Returns what a file of predictions holds.

    Raises:
        UserError: there is no such file, or it is damaged or holds something else.
    """
    import pyarrow as pa

    if not os.path.lexists(path):
        raise UserError(f"{path} does not exist; `evaluate --predictions {path}` writes it")
    try:
        table = _read_table(path)
        num_ranks = sum(re.fullmatch(r"class_\d", name) is not None for name in table.column_names)
        schema = _schema(num_ranks)
        missing = [name for name in schema if name not in table.column_names]
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError("two of its columns have one name")
        if missing or not 1 <= num_ranks <= TOP:
            raise ValueError(f"it has no column {(missing or ['class_1'])[0]}")
        table = table.select(list(schema)).cast(pa.schema(schema))
        return _stored(table, num_ranks)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is not a file that `evaluate --predictions` has written: {reason(error)}"
        ) from error


def _read_table(path: StrPath) -> "pa.Table":
    import pyarrow as pa

    content = pa.BufferReader(read_small(path, MAX_BYTES))
    if Path(path).suffix.lower() == ".csv":
        from pyarrow import csv

        return csv.read_csv(
            content,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=_schema(TOP)),
        )
    from pyarrow import parquet

    return parquet.read_table(content)


def _stored(table: "pa.Table", num_ranks: int) -> StoredPredictions:
    columns = {name: table[name].to_numpy() for name in table.column_names}
    ranks = range(1, num_ranks + 1)
    named = [("label", "label_name"), *((f"class_{rank}", f"name_{rank}") for rank in ranks)]
    names: dict[str, str] = {}
    for ids, texts in named:
        names |= dict(zip(columns[ids], columns[texts], strict=True))
    if not len(table) or table.column("label").null_count or None in names:
        raise ValueError("it has no rows, or rows without a class")
    if len(set(columns["dataset"])) > 1 or len(set(columns["split"])) > 1:
        raise ValueError("its rows are of several data sets or splits")
    wnids = sorted(names)
    number_of = {wnid: number for number, wnid in enumerate(wnids)}

    def numbers(column: str) -> np.ndarray:
        return np.array([number_of[wnid] for wnid in columns[column]], "int32")

    top = TopPredictions(
        images=columns["image"],
        labels=numbers("label"),
        classes=np.stack([numbers(f"class_{rank}") for rank in ranks], axis=1),
        probabilities=np.stack([columns[f"probability_{rank}"] for rank in ranks], axis=1),
        label_probability=columns["label_probability"],
    )
    for each in (top.probabilities, top.label_probability):
        if not ((each >= 0) & (each <= 1)).all():
            raise ValueError("its probabilities are not between 0 and 1")
    return StoredPredictions(
        str(columns["dataset"][0]),
        str(columns["split"][0]),
        tuple(wnids),
        tuple(str(names[wnid]) for wnid in wnids),
        top,
    )
