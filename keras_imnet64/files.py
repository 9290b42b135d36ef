"""Files of the disk: written so that nothing is ever half there, read so that nothing can hang.

What is wrong with a file that is read is a ValueError or an OSError, which `denied` explains.
"""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path

JSON_BYTES = 16 * 2**20  # ours have some 100 KB
JSON_DEPTH = 100


def write_atomic(path, content):
    """Write bytes or text so that the file holds the old content or the new one, never a part."""
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # a part of it would keep a full disk full
    sync_folder(path.parent)


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


def expand(path):
    """A path as typed, with a "~" of a user who exists replaced by that user's home."""
    return Path(os.path.expanduser(path))


def check_writable(path):
    """Raise the OSError that making or filling the folder `path` would end in, if it is clear now.

    Returns:
        Path: the folder itself, or the nearest above it that exists.
    """
    with contextlib.suppress(FileNotFoundError):
        os.scandir(path).close()
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.isdir(folder))
    if not os.access(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(existing))
    return existing


def denied(error, path):
    """What the system says about a path, and whose it is where permission is what lacks."""
    text = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) not in (errno.EACCES, errno.EPERM):
        return text
    for folder in (Path(path).absolute(), *Path(path).absolute().parents):
        try:
            if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
                return f"{text}: {folder} belongs to user {_owner(folder)}"
        except OSError:
            continue
    return text


def _owner(path):
    try:
        return path.owner()
    except KeyError:  # a number without a name
        return path.stat().st_uid
