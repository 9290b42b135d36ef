"""Writing so that neither a kill nor a power cut leaves a part of a file."""

import os
from pathlib import Path


def write_atomic(path, content):
    """Write bytes or text so that the file holds the old content or the new one, never a part."""
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path):
    """Make renames in a folder outlast a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
