"""What fuzzing shares: the one outcome besides success, and ways to damage bytes and JSON."""

import copy
import io
import os
import zipfile

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from keras_imnet64.core.errors import UserError, printable

NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def fuzz(max_examples):
    """The same examples every time, so that a failure is the change's and not the day's."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def works_or_is_refused(action, *arguments):
    """What the action returns, or None where a UserError of one line refuses."""
    try:
        return action(*arguments)
    except UserError as error:
        message = str(error)
        assert message and printable(message) == message and len(message) < 1600, message
        return None


@st.composite
def damage(draw, content):
    """Bytes cut short, with some changed, or with a piece doubled or left out."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "double", "leave out", "insert"]))
        if kind == "flip" and content:
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        elif kind == "leave out":
            del content[at : at + draw(st.integers(1, 64))]
        else:
            content[at:at] = draw(st.binary(max_size=8))
    return bytes(content)


def places(content, path=()):
    """The path of everything in nested dicts and lists."""
    yield path
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from places(value, (*path, key))


def put(content, path, value):
    """A copy of nested dicts and lists with another value at this path."""
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


@st.composite
def edited(draw, content, values=JSON):
    """Nested dicts and lists with another value somewhere, or a key more, or one less."""
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(content))))
        change = draw(st.sampled_from(["put", "put", "add", "remove"]))
        if change == "put" or not path:
            content = put(content, path, draw(values))
        elif change == "add":
            content = put(content, path, {draw(st.text(max_size=8)): draw(values)})
        else:
            content = copy.deepcopy(content)
            holder = content
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
        if not isinstance(content, dict | list):
            break
    return content


class RunsCode:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def npy(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npz(save=np.savez, **arrays):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def announced(shape, descr="<i8", version=(1, 0)):
    """An npy file that is its header."""
    content = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    if version == (1, 0):
        np.lib.format.write_array_header_1_0(content, header)
    else:
        np.lib.format.write_array_header_2_0(content, header)
    return content.getvalue()
