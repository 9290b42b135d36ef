"""Reads pickles of arrays without running code: only arrays, lists, texts and numbers are made.

A pickle is a program that may call any function. The unpickler here knows the few names that NumPy
writes for arrays, and gives each an object of this module in place of NumPy's function. It refuses
all other names. It is derived from the unpickler in Python, since that in C reserves memory for any
number that a few bytes state.
"""

import math
import os
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard

import numpy as np

from keras_imnet64.core.errors import UserError, reason

DTYPE = re.compile(r"[|<>=]?[biuf][1248]", re.ASCII)
LATIN_1 = ("latin1", "latin-1")


def read_pickle(path: Path) -> dict[str, Any]:  # values of any of these types
    """Returns the dict in a pickle: {text: array, list, text or number}.

    Raises:
        UserError: the file is no pickle, is damaged, or asks for anything else.
    """
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
            has_more = bool(file.read(1))
    except _Forbidden as error:
        raise UserError(
            f"{path} is a pickle that asks for {error}, which may run code: only arrays, lists, "
            "texts and numbers are read"
        ) from None
    except Exception as error:  # damaged pickles raise any exception
        raise UserError(
            f"{path} is not a whole pickle of arrays ({reason(error)}): download it again"
        ) from None
    if not isinstance(content, dict) or has_more:
        received = "more than one object" if has_more else f"a {type(content).__name__}"
        raise UserError(f"{path} must hold one dict with data and labels; received {received}")
    return {
        key: value.array if isinstance(value, _Array) else value
        for key, value in content.items()
        if isinstance(key, str)
    }


class _Forbidden(Exception):
    """The pickle asks for a class or function that is not needed for arrays."""


class _Unpickler(pickle._Unpickler):
    # That of Python fills a bytearray of any size before it reads; its bytes have the same layout.
    dispatch = pickle._Unpickler.dispatch | {
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]]
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # as Python 2 wrote texts
        self._functions = _functions(_Encoder(os.fstat(file.fileno()).st_size))

    def find_class(self, module: str, name: str) -> "_Function":
        made = self._functions.get((module, name))
        if made is None:
            raise _Forbidden(f"{module}.{name}")
        return made


class _Function:
    """Stands for a function of NumPy; a pickle can call it, but can change nothing of it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:  # a pickle passes any arguments
        self._call = call

    def __call__(self, *arguments: Any) -> Any:  # likewise
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Forbidden("a change of a function")


class _Encoder:
    """Makes bytes of texts, at most as many as the file has.

    Programs write each text once that is to become bytes, but a pickle could name it many times.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = file_bytes

    def __call__(self, text: object, encoding: object = LATIN_1[0]) -> bytes:
        """Returns bytes that protocol 2, or Python 2, wrote as a text."""
        if not isinstance(text, str) or encoding not in LATIN_1:
            raise ValueError("bytes are damaged")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("its texts would become more bytes than the file has")
        return text.encode("latin1")


class _Dtype:
    """Stands for the dtype of an array of numbers."""

    __slots__ = ("_dtype", "_encode")

    def __init__(self, encode: _Encoder, description: object, *_: object) -> None:
        self._encode = encode
        if not isinstance(description, str) or not DTYPE.fullmatch(description):
            raise ValueError(f"arrays of {description!r} are not read")
        self._dtype = np.dtype(description)

    def __setstate__(self, state: object) -> None:
        """Takes the byte order, the second part of what NumPy writes."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype is damaged")
        self._dtype = self._dtype.newbyteorder(state[1])

    def array(self, content: object, shape: object, order: Literal["C", "F"] = "C") -> np.ndarray:
        """Returns the array with these bytes."""
        if isinstance(content, str):
            content = self._encode(content)
        if not isinstance(content, bytes) or not _is_shape(shape):
            raise ValueError("an array is damaged")
        if len(content) != math.prod(shape) * self._dtype.itemsize:
            raise ValueError(f"an array of shape {shape} has {len(content):,} bytes")
        return np.frombuffer(content, self._dtype).reshape(
            shape, order="F" if order == "F" else "C"
        )


def _is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(isinstance(n, int) and n >= 0 for n in value)


class _Array:
    """Stands for an array until its state comes."""

    __slots__ = ("_content",)

    def __init__(self, *_: object) -> None:
        self._content: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        """Takes (version, shape, dtype, whether columns come first, bytes)."""
        _, shape, dtype, is_fortran, content = _five(state)
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array has no dtype")
        self._content = dtype.array(content, shape, "F" if is_fortran else "C")

    @property
    def array(self) -> np.ndarray:
        if self._content is None:
            raise ValueError("an array is not complete")
        return self._content


def _five(state: object) -> tuple[object, ...]:
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("the state of an array is damaged")
    return state


def _array_of_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    """Returns an array as protocol 5 writes it."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _scalar(dtype: object, content: object) -> int | float:
    """Returns a number that NumPy wrote, such as an element of a list of labels."""
    if not isinstance(dtype, _Dtype):
        raise ValueError("a number has no dtype")
    number: int | float = dtype.array(content, ()).item()
    return number


def _functions(encode: _Encoder) -> dict[tuple[str, str], _Function]:
    """Returns {(module, name): function}, as pickles of NumPy 1 and 2 have them."""
    functions = {
        ("numpy", "ndarray"): _Function(_Array),
        ("numpy", "dtype"): _Function(partial(_Dtype, encode)),
        ("_codecs", "encode"): _Function(encode),
    }
    for core in ("numpy.core", "numpy._core"):
        functions[f"{core}.multiarray", "_reconstruct"] = _Function(_Array)
        functions[f"{core}.multiarray", "scalar"] = _Function(_scalar)
        functions[f"{core}.numeric", "_frombuffer"] = _Function(_array_of_buffer)
    return functions
