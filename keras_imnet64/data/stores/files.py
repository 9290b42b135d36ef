"""Opens the files of a store, and checks each before other modules rely on its content."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_imnet64.core.errors import UserError, reason


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
        UserError: the file holds none, or an array of Python objects.
    """
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # NumPy reads the header as Python: any error of a tokenizer
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
