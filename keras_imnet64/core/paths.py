"""Paths as users type them and as the system keeps them, and whether they can be written to."""

import errno
import os
from pathlib import Path

from keras_imnet64.core.errors import UserError

LONGEST_NAME = 200  # bytes; most file systems take 255, and a writer needs some


def expand(path):
    """A path as typed, with a "~" of a user who exists replaced by that user's home."""
    return Path(os.path.expanduser(path))


def portable(path: str | os.PathLike) -> str:
    """The text of a path, the same under every locale: UTF-8, other bytes as lone surrogates."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def native(text: str) -> str:
    """A `portable` text as this process, under its locale, names the path."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def is_portable(value: object) -> bool:
    """Whether a JSON value is a text that `native` can name a path by."""
    try:
        return isinstance(value, str) and bool(native(value))
    except UnicodeEncodeError:
        return False


def check_writable(path, must_exist=False):
    """Raise the OSError that making or filling the folder `path` would end in, if it is clear now.

    Args:
        must_exist: whether nobody will make the folder, so that it must be there.

    Returns:
        Path: the folder itself, or the nearest above it that exists.
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


def os_error_text(error, path):
    """What the system says about a path, and whose it is where permission is what lacks."""
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


def _may(path, mode):
    """`os.access` for the user that this process acts as, which need not be who started it."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _owner(path):
    try:
        return path.owner()
    except KeyError:  # a number without a name
        return path.stat().st_uid


def check_output_file(path, suffix):
    """Refuse, before any work, a file that could not be written at its end, or is something else.

    Raises:
        UserError: its suffix is another; a folder, link or device has its name; its folder does not
            exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"{path} must be a file whose name ends in {suffix}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path} must have a name of at most {LONGEST_NAME} bytes")
    try:
        check_writable(path.parent, must_exist=True)
        is_other = path.is_symlink() or (path.exists() and not path.is_file())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be written: {os_error_text(error, path.parent)}; choose a folder "
            "that exists and can be written to"
        ) from error
    if is_other:
        raise UserError(f"{path} exists and is not a plain file; name another")


def refuse_existing(target):
    """Refuse a place for a result where something is, be it a broken link."""
    if os.path.lexists(target):
        raise UserError(
            f"{target} exists and is never overwritten: remove it, or name another place with --out"
        )
