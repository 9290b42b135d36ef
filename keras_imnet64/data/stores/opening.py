"""Opens a store of either kind, after checking that its files match its `meta.json`."""

import os
from pathlib import Path
from typing import TypeAlias

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import MAX_JSON_BYTES, parse_json, read_small
from keras_imnet64.core.types import StrPath
from keras_imnet64.core.validation import parse_record
from keras_imnet64.data.stores.base import class_counts
from keras_imnet64.data.stores.encoded import EncodedStore, open_encoded
from keras_imnet64.data.stores.files import check_size, damaged
from keras_imnet64.data.stores.raw import RawStore, open_raw
from keras_imnet64.records import EncodedStoreMeta, RawStoreMeta

Store: TypeAlias = RawStore | EncodedStore

IN_MEMORY = ("auto", "always", "never")
META_TYPES: dict[object, type[RawStoreMeta] | type[EncodedStoreMeta]] = {
    **{("raw", version): RawStoreMeta for version in RawStoreMeta.FILES},
    **{("encoded", version): EncodedStoreMeta for version in EncodedStoreMeta.FILES},
}


def open_store(path: StrPath, in_memory: str = "auto") -> Store:
    """Opens a packed split.

    Args:
        path: the store's folder.
        in_memory: "always" loads the images of a raw store, "never" maps the file, "auto" loads
            them if they take less than a quarter of the available memory.

    Raises:
        UserError: there is no store, or a file is missing, cut short or of another format.
    """
    if in_memory not in IN_MEMORY:
        raise UserError(f'in_memory must be one of {", ".join(IN_MEMORY)}; received "{in_memory}"')
    path = Path(path)
    meta = _read_meta(path)
    for name, size in meta.file_sizes.items():
        check_size(path / name, size)
    store: Store
    if isinstance(meta, RawStoreMeta):
        store = open_raw(path, meta, in_memory)
    else:
        store = open_encoded(path, meta)
    num_classes = len(meta.wnids)
    in_range = (store.labels >= 0) & (store.labels < num_classes)
    if not in_range.all() or class_counts(store.labels, num_classes) != meta.class_counts:
        raise damaged(path / "labels.npy", "holds other labels than meta.json counts")
    return store


def is_store(path: StrPath) -> bool:
    """Returns whether a complete store lies at `path`; its files are not checked."""
    return os.path.isfile(Path(path) / "meta.json")


def _read_meta(path: Path) -> RawStoreMeta | EncodedStoreMeta:
    file = path / "meta.json"
    try:
        text = read_small(file, MAX_JSON_BYTES)
        content = parse_json(text)
    except FileNotFoundError:
        raise UserError(f"{path} is not a packed data set: it has no meta.json") from None
    except (OSError, ValueError) as error:
        raise damaged(file, f"cannot be read ({error})") from None
    has_format = isinstance(content, dict)
    found = (content.get("kind"), content.get("format_version")) if has_format else None
    if found not in list(META_TYPES):  # a list, because a value in the file may be unhashable
        readable = " or ".join(map(str, META_TYPES))
        raise damaged(file, f"has kind and format version {found} where {readable} is readable")
    try:
        return parse_record(META_TYPES[found], text)
    except ValueError as error:
        raise damaged(file, f"cannot be used: {error}") from None
