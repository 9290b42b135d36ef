"""Puts off imports that other libraries make, and few programs need, until something uses them.

TensorFlow imports JAX for its converter to TFLite, and Keras Matplotlib for its galleries of
images: a quarter of the time of `import tensorflow`.
"""

import contextlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module, or a function of one, and imports it when it is used.

    Attributes:
        stand_ins: all that began to stand for something at the same time, by name.
    """

    def __init__(self, name: str, stand_ins: dict[str, "_Later"]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.stand_ins = stand_ins

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what the import system looks for
            raise AttributeError(name)
        return getattr(self._imported(), name)

    def __call__(self, *args: object, **options: object) -> object:
        return self._imported()(*args, **options)

    def _imported(self) -> Any:  # a module or a function
        _withdraw(self.stand_ins)
        return pkgutil.resolve_name(self.__name__)


@contextlib.contextmanager
def put_off(names: Sequence[str]) -> Iterator[None]:
    """Within the block, `import` gives what stands for these modules until they are used.

    Args:
        names: of packages, each before its modules and functions. Nothing is put off if one of
            them has been imported already.
    """
    if any(name in sys.modules for name in names):
        yield
        return
    stand_ins: dict[str, _Later] = {}
    for name in names:
        stand_ins[name] = _Later(name, stand_ins)
        package, _, rest = name.rpartition(".")
        if package:
            vars(stand_ins[package])[rest] = stand_ins[name]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _withdraw(stand_ins)


def _withdraw(stand_ins: dict[str, _Later]) -> None:
    """Lets `import` find the modules themselves from now on."""
    for name, stand_in in stand_ins.items():
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
