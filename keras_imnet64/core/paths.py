"""Paths as users type them and as the system stores them, and checks that they can be written."""

import errno
import os
import re
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath

DEFAULT_RUNS = Path("saved_models")  # the folder of runs that have a name only
MAX_NAME_BYTES = 200  # most file systems allow 255; temporary names add to them


def expand(path: StrPath) -> Path:
    """Returns a path as typed, with "~" or "~user" replaced by the home of that user."""
    return Path(os.path.expanduser(path))


def default_data_dir() -> Path:
    """Returns the default folder of data sets: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return expand(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def is_remote(source: StrPath) -> bool:
    """Returns whether a source is an address such as s3://bucket/folder, and not a local path."""
    return isinstance(source, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source))


def without_secrets(text: str) -> str:
    """Returns a text whose addresses lack their user, password and query, such as a signature."""
    text = re.sub(r"(?<=://)[^/?\s]*@", "", text)
    return re.sub(r"(://[^?]*)\?[^\s'\")]*", r"\1", text)


def portable(path: StrPath) -> str:
    """Returns a path as text that is the same under every locale.

    The bytes are decoded as UTF-8, and those that are not UTF-8 become lone surrogates.
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def native(text: str) -> str:
    """Returns a `portable` text as the path that this process uses under its locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def is_portable(value: object) -> bool:
    """Whether a JSON value is a text that `native` can turn into a path."""
    try:
        return isinstance(value, str) and bool(native(value))
    except UnicodeEncodeError:
        return False


def check_writable(path: StrPath, must_exist: bool = False) -> Path:
    """Checks that a folder can be created and written to.

    Args:
        must_exist: whether the folder itself must exist already.

    Returns:
        The folder, or its nearest parent that exists.

    Raises:
        OSError: the error that writing into the folder would raise.
    """
    try:
        os.scandir(path).close()
    except FileNotFoundError:
        if must_exist:
            raise
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.isdir(folder))
    if not _may(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(existing))
    return existing


def os_error_text(error: Exception, path: StrPath) -> str:
    """Returns the system's message about a path; where permission is missing, also the owner."""
    text = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) not in (errno.EACCES, errno.EPERM):
        return text
    for folder in (Path(path).absolute(), *Path(path).absolute().parents):
        try:
            if not _may(folder, os.W_OK):
                return f"{text}: {folder} belongs to user {_owner(folder)}"
        except OSError:
            continue
    return text


def _may(path: StrPath, mode: int) -> bool:
    """Calls `os.access` for the effective user of this process."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _owner(path: Path) -> str | int:
    try:
        return path.owner()
    except KeyError:  # the user id has no name
        return path.stat().st_uid


def check_output_file(path: StrPath, suffix: str) -> None:
    """Checks, before any work, that a result can be written to a file.

    Raises:
        UserError: the suffix is wrong; the path is a folder, link or device; its folder does not
            exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"{path} must be a file whose name ends in {suffix}")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise UserError(f"{path} must have a name of at most {MAX_NAME_BYTES} bytes")
    try:
        check_writable(path.parent, must_exist=True)
        is_other = path.is_symlink() or (path.exists() and not path.is_file())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be written: {os_error_text(error, path.parent)}; choose a folder "
            "that exists and can be written to"
        ) from error
    if is_other:
        raise UserError(f"{path} exists and is not a plain file; choose another path")


def refuse_existing(target: StrPath) -> None:
    """Raises a UserError if the path of a result exists, even as a broken link."""
    if os.path.lexists(target):
        raise UserError(
            f"{target} exists and is never overwritten: remove it, or choose another --out"
        )
