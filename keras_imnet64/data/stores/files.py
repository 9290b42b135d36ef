"""Writes and opens the files of a store; each is checked when it is opened."""

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import sync_file


def write_pixels_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Writes the header of a .npy file of uint8 pixels, which follow in C order."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file, and waits until it is on the disk."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        sync_file(file)


def damaged(file: Path, fault: str) -> UserError:
    """Returns the error for a file of a store that cannot be used."""
    return UserError(f"{file} {fault}: delete the folder {file.parent} and prepare the data again")


def check_size(file: Path, size: int) -> None:
    """Raises a UserError if a file is missing or has another size than `meta.json` states."""
    if not file.is_file():
        raise damaged(file, "is missing")
    if (actual := file.stat().st_size) != size:
        raise damaged(file, f"has {actual:,} bytes where meta.json says {size:,}")


def read_array(file: Path) -> np.ndarray:
    """Returns the memory-mapped array of a .npy file.

    Raises:
        UserError: the file holds no array, or an array of Python objects.
    """
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # NumPy parses the header as Python: many errors are possible
        raise damaged(file, f"cannot be read ({reason(error)})") from None


def map_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the memory-mapped array of a .npy file, which must have this dtype and shape.

    Raises:
        UserError: the file holds something else.
    """
    array = read_array(file)
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise damaged(
            file,
            f"holds {array.dtype} {list(array.shape)} where meta.json says "
            f"{np.dtype(dtype)} {list(shape)}",
        )
    return array
