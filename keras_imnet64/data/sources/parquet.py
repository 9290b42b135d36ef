"""Lists and reads images in Parquet files, as the Hugging Face Hub stores image data sets.

A row has `image`, a struct of `bytes` and `path`, and `label`, a whole number whose class names
stand in the metadata of the schema, or a text. The images lie in compressed columns, so they are
copied into the store. Rows keep their order.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.errors import UserError, first_few, reason
from keras_imnet64.core.files import parse_json
from keras_imnet64.core.types import Json, PackProgress
from keras_imnet64.core.zips import BOMB_BYTES, BOMB_RATIO
from keras_imnet64.data.sources.class_lists import Labels, read_class_list
from keras_imnet64.data.sources.layout import TEST, join_names
from keras_imnet64.data.sources.listing import Listed, choose_splits
from keras_imnet64.data.sources.shards import find_shards, shards_by_split
from keras_imnet64.data.stores.indexing import ImageEntry

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
MAGIC = b"PAR1"
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")
READ_ROWS = 16_384  # that are in memory at once, if they are small


def list_parquet(source: Path, progress: PackProgress | None = None) -> Listed:
    """Lists the images of all rows, without reading them.

    Raises:
        UserError: a shard is missing or damaged, holds no images, or names other classes.
    """
    root = source if source.is_dir() else source.parent
    notes: list[str] = []
    found = shards_by_split(find_shards(source, SUFFIX), root)
    names = read_class_list(root)
    if len(found) > 1 and TEST in found and _is_unlabelled(found[TEST]):
        notes.append("test has no labels and is left out")
        del found[TEST]
    chosen = choose_splits(found, notes)
    tables = {split: [_Table(path) for path in paths] for split, paths in chosen.items()}
    all_tables = [table for each in tables.values() for table in each]
    for table in all_tables:
        table.require_labels()
    listed_names = _common_names(all_tables)
    labels = Labels(str(source), names if listed_names is None else listed_names)
    total = sum(map(len, all_tables))
    entries: dict[str, list[ImageEntry]] = {}
    for split, each in tables.items():
        entries[split] = []
        for table in each:
            entries[split] += table.list_rows(split, labels, root)
            if progress and total:
                progress("listing rows", sum(map(len, entries.values())), total)
    if listed_names is None:
        labels.refuse_numbers_as_names()
    return Listed(
        form="Parquet",
        root=root,
        labels=labels,
        entries=entries,
        read=lambda entries: read_images(root, entries),
        notes=notes,
    )


def read_images(root: Path, entries: Sequence[ImageEntry]) -> Iterator[bytes]:
    """Yields the bytes of images in the order of `entries`, which must be that of their rows.

    Raises:
        UserError: a file is damaged, or an image is not in its row.
    """
    file: str | None = None
    rows: Iterator[tuple[int, bytes]] = iter(())
    for entry in entries:
        if entry.name != file:
            file, rows = entry.name, enumerate(_Table(root / entry.name).images())
        content = next((content for row, content in rows if row == entry.offset), None)
        if content is None:
            raise UserError(f"{root / entry.name} has fewer rows than when it was listed")
        yield content


def _is_unlabelled(paths: Sequence[Path]) -> bool:
    labels = Labels("test")
    for path in paths:
        table = _Table(path)
        if table.label_column is None or table.label_type == "null":
            return True
        table.require_labels()
        table.list_rows(TEST, labels, path.parent)
    return labels.is_unlabelled(TEST)


def _common_names(tables: Sequence[_Table]) -> list[str] | None:
    """Returns the class names of the tables' metadata, which must agree."""
    for table in tables:
        if table.names != tables[0].names:
            raise UserError(
                f"{tables[0].path} and {table.path} list the classes in two label orders: their "
                "labels cannot be used together; get all shards from one place"
            )
    return tables[0].names


class _Table:
    """One Parquet file, whose schema has been checked.

    Attributes:
        columns: names of all columns, for messages.
        image_column, label_column: their names; the latter is None if there are no labels.
        label_type: what Arrow calls the type of the labels, or empty.
        has_good_labels: whether it is one of whole numbers or texts.
        has_paths: whether images have names.
        names: class names in label order, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.has_paths = path, False
        with self._report(), self._open() as file:
            schema = file.schema_arrow
            self.num_rows = int(file.metadata.num_rows)
            groups = range(file.metadata.num_row_groups)
            self._refuse_growth(sum(file.metadata.row_group(g).total_byte_size for g in groups))
        self.columns = first_few(schema.names, 6)
        self._refuse_doubles(schema)
        self.image_column = self._image_column(schema)
        label = [field for field in schema if field.name in LABEL_COLUMNS]
        self.label_column = label[0].name if label else None
        self.label_type = str(label[0].type) if label else ""
        self.has_good_labels = bool(label) and _is_label(label[0].type)
        self.names = _names_in(schema, self.label_column)

    def __len__(self) -> int:
        return self.num_rows

    def require_labels(self) -> None:
        if self.label_column is None:
            raise UserError(
                f"{self.path} has no column {LABEL_COLUMNS[0]}, which its images need; received "
                f"the columns {self.columns}: call the one with the classes so"
            )
        if not self.has_good_labels:
            raise UserError(
                f"{self.path} has labels of the type {self.label_type} in its column "
                f"{self.label_column}, where whole numbers or texts are needed: convert them"
            )

    def list_rows(self, split: str, labels: Labels, root: Path) -> list[ImageEntry]:
        """Returns an entry for each row, whose `offset` is its number; adds the labels."""
        name = self.path.relative_to(root).as_posix()
        entries: list[ImageEntry] = []
        position = labels.numbers.setdefault(split, [])
        for label, image_name in self._labels_and_names():
            row = len(entries)
            where = f"{self.path}: row {row}"
            if label is None:
                raise UserError(f"{where} has no label")
            labels.add(split, label, where, image_name)
            entries.append(ImageEntry(name, position[-1], offset=row, member=f"row {row}"))
        return entries

    def images(self) -> Iterator[bytes]:
        """Yields the bytes of the image of each row; none for a row without an image.

        Raises:
            UserError: the file is damaged, or no row holds an image.
        """
        num_without = 0  # rows before the first image
        has_images = False
        for batch in self._batches([self.image_column]):
            column = batch.column(0)
            values = column.field("bytes") if _is_struct(column.type) else column
            for value in values:
                content = value.as_py()
                if isinstance(content, bytes):
                    yield from itertools.repeat(b"", 0 if has_images else num_without)
                    has_images = True
                    yield content
                elif has_images:
                    yield b""
                else:
                    num_without += 1
        if num_without and not has_images:
            raise UserError(
                f"{self.path}: row 0 has no image: its bytes are missing, as are those of all "
                "other rows, and only paths are there; get a copy that holds its images"
            )

    def _labels_and_names(self) -> Iterator[tuple[int | str | None, str]]:
        """Yields the label and the name of the image of each row."""
        columns = [str(self.label_column)]
        if self.has_paths:
            columns.append(f"{self.image_column}.path")
        for batch in self._batches(columns):
            by_name = dict(zip(batch.schema.names, batch.columns, strict=True))
            names: list[str | None] = [None] * batch.num_rows
            if self.has_paths:
                names = by_name[self.image_column].field("path").to_pylist()
            for label, name in zip(by_name[self.label_column].to_pylist(), names, strict=True):
                yield label, name if isinstance(name, str) else ""

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields batches of rows.

        A file may hold a value once and name it in many rows, so the rows of a batch are so few
        that they need at most BOMB_BYTES if each had the largest value, or one row.
        """
        with self._report(), self._open() as file:
            largest = _largest_group(file.metadata, columns)
            rows = min(READ_ROWS, max(1, BOMB_BYTES // max(1, largest)))
            grown = 0
            for batch in file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                grown += batch.nbytes
                self._refuse_growth(grown)
                yield batch

    def _open(self) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, memory_map=True)

    def _image_column(self, schema: pa.Schema) -> str:
        """Returns the name of the column of images; refuses tables of anything else."""
        import pyarrow as pa

        for name in IMAGE_COLUMNS:
            if name not in schema.names:
                continue
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
            if _is_struct(kind) and kind.get_field_index("bytes") >= 0:
                self.has_paths = kind.get_field_index("path") >= 0
                return name
        raise UserError(
            f"{self.path} holds no images: a column {IMAGE_COLUMNS[0]} with bytes and path is "
            f"needed; received the columns {self.columns or 'of nothing'}"
        )

    def _refuse_doubles(self, schema: pa.Schema) -> None:
        """Refuses two columns of labels, and two columns of images with the same name."""
        labels = [name for name in schema.names if name in LABEL_COLUMNS]
        images = [name for name in schema.names if name in IMAGE_COLUMNS]
        for names in (labels, *([name] * images.count(name) for name in IMAGE_COLUMNS)):
            if len(names) > 1:
                raise UserError(
                    f"{self.path} has the columns {join_names(names)}, where one is needed: drop "
                    "or rename the others"
                )

    def _refuse_growth(self, grown: int) -> None:
        """Refuses a file that grows far beyond its size when it is read, as images never do."""
        size = self.path.stat().st_size
        if grown > max(BOMB_BYTES, BOMB_RATIO * size):
            raise UserError(f"{self.path} would grow from {size:,} to {grown:,} bytes")

    @contextlib.contextmanager
    def _report(self) -> Iterator[None]:
        """Turns errors of pyarrow into a UserError that names the file."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # pyarrow raises many kinds for damaged files
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise UserError(
                        f"{self.path} is not a Parquet file, whatever its suffix says"
                    ) from None
            fault = f"{self.path} is not a whole Parquet file ({reason(error)})"
            raise UserError(f"{fault}: download it again") from None


def _largest_group(metadata: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Returns the bytes that some columns, and fields of them, have in the largest row group."""
    sizes = [0]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(each) for each in range(group.num_columns)]
        sizes.append(
            sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns)
            )
        )
    return max(sizes)


def _is_struct(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind))


def _is_label(kind: pa.DataType) -> bool:
    """Returns whether values of a type are whole numbers or texts, also as a dictionary's."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_text or pa.types.is_string_view(kind) or pa.types.is_integer(kind))


def _names_in(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Returns the class names that the hub has written beside the schema, or None."""
    metadata = schema.metadata or {}
    content = metadata.get(b"huggingface")
    if content is None or column is None:
        return None
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        found: Json = parse_json(content)
        for key in ("info", "features", column, "names"):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return found
    return None
