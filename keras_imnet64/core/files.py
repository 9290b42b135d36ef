"""Files of the disk: written so that nothing is ever half there, read so that nothing can hang.

What is wrong with a file that is read is a ValueError or an OSError; see `os_error_text`.
Folders to make several files in are the business of `work_folders`.
"""

import codecs
import csv
import io
import json
import os
import stat
from pathlib import Path

JSON_BYTES = 16 * 2**20  # ours have some 100 KB
JSON_DEPTH = 100
MARKS = {  # those of UTF-32 first, since two of them begin as those of UTF-16 do
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def write_atomic(path, content):
    """Write bytes or text so that the file holds the old content or the new one, never a part."""
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            file.write(content)
            sync_file(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # a part of it would keep a full disk full
    sync_folder(path.parent)


def _no_link(path, flags):
    """Open what is to be written, unless somebody has put a link in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_json(path, content):
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def write_csv(path, columns, rows):
    write_atomic(path, csv_text(columns, rows))


def csv_text(columns, rows):
    """Rows of dicts as CSV that any reader takes, whatever the names in them.

    All text below the header is quoted, so that a line break or a comma in a name stays in its
    field; bytes of file names that are no UTF-8 are written as escapes, such as \\udcff.

    Args:
        columns: our own plain words, which head the table as they are.

    Returns:
        str: with "\\n" at line ends.
    """
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace").decode()


def sync_file(file):
    """Make what was written into an open file outlast a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path):
    """Make renames in a folder outlast a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_small(path, most):
    """The bytes of a regular file of at most `most` bytes: no device, no pipe, no flood."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is not a regular file")
    if state.st_size > most:
        raise ValueError(f"it has {state.st_size:,} bytes, more than {most:,}")
    with open(path, "rb") as file:
        return file.read(most)


def byte_order_mark(content):
    """The encoding whose byte order mark some bytes begin with, such as "UTF-16", or None."""
    return next((name for mark, name in MARKS.items() if content.startswith(mark)), None)


def decode_text(content, errors="strict"):
    """The text of a file that a person has written, by its byte order mark or as UTF-8.

    Editors on Windows mark what they save as Unicode; their line ends are left as they are.

    Raises:
        ValueError: it is in no such encoding.
    """
    encoding = byte_order_mark(content)
    if encoding is None and b"\0" in content:
        raise ValueError("it has zero bytes, as text in UTF-16 has: save it as UTF-8")
    try:
        return content.decode("utf-8-sig" if encoding in (None, "UTF-8") else encoding, errors)
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ValueError(
            f"it is not {encoding or 'UTF-8'} text ({where}): save it as UTF-8"
        ) from None


def read_json(path):
    """The content of a JSON file."""
    return parse_json(read_small(path, JSON_BYTES))


def parse_json(text):
    """What JSON says; ValueError if it is none, or is nested too deeply for what walks over it."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if depth(content) > JSON_DEPTH:
        raise ValueError("it is nested too deeply")
    return content


def depth(content):
    """How many lists and dicts lie within each other."""
    levels, holders = 0, [content]
    while holders := [h for h in holders if isinstance(h, dict | list)]:
        levels += 1
        holders = [i for h in holders for i in (h.values() if isinstance(h, dict) else h)]
    return levels


def check_fields(content, fields, required=True):
    """Hold a JSON object against {key: type, or a function that says whether it is right}.

    Raises:
        ValueError: names the first key that is wrong, or missing where all are required.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    for key, right in fields.items():
        if key in content:
            value = content[key]
            if not (isinstance(value, right) if isinstance(right, type) else right(value)):
                raise ValueError(f'its "{key}" is wrong')
        elif required:
            raise ValueError(f'its "{key}" is missing')


def is_count(value):
    """Whether a JSON value is a whole number from 0 that fits 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_texts(value):
    """Whether a JSON value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
