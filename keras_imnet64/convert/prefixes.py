"""Finds a network in a file, and the prefix that the file adds to the names of its tensors.

A wrapper puts its attribute's name before the names of the network (`model.`, `module.`,
`timm_model.`), and a checkpoint keeps the network under a key (`state_dict`). The prefix is both
together, such as "state_dict.model.". A network is recognised by its landmarks: the first
convolution and the classifier have the same prefix.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from keras_imnet64.convert.tensor_files import (
    StoredTensor,
    TensorDicts,
    join_names,
    without_wrappers,
)
from keras_imnet64.core.errors import UserError, first_few

AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?)(?=[._])", re.IGNORECASE)
AVERAGED_MODEL_COUNTER = "n_averaged"  # of torch's AveragedModel; not part of the network
LOSS_OR_METRIC = re.compile(r"(?:criterion|(?:\w+_)?loss(?:_fn|_function)?|(?:\w+_)?metrics?)\.")


@dataclass(frozen=True)
class Landmarks:
    """Names of tensors by which a network is recognised.

    Attributes:
        first_kernel: the kernel of the first convolution.
        classifier_kernels: the names that the kernel of the classifier may have.
    """

    first_kernel: str
    classifier_kernels: Sequence[str]


@dataclass(frozen=True)
class Location:
    """Where a network lies in a file.

    Attributes:
        dict_path: the path to its dict of tensors, a key of TensorDicts.
        prefix: the beginning of its tensors' names in that dict, "" or up to a dot.
    """

    dict_path: str
    prefix: str

    @property
    def full_prefix(self) -> str:
        return join_names(self.dict_path, self.prefix)


@dataclass(frozen=True)
class FoundNetwork:
    """A network in a file.

    Attributes:
        tensors: by their names without the prefix.
        prefix: the beginning of their names in the file, "" or up to a dot.
        other_prefixes: the prefixes of the other networks in the file.
        left_out: names of tensors in the same dict that belong to none of these networks.
    """

    tensors: dict[str, StoredTensor]
    prefix: str
    other_prefixes: list[str]
    left_out: list[str]

    @property
    def is_averaged(self) -> bool:
        return is_averaged(self.prefix)


def is_averaged(prefix: str) -> bool:
    """Whether a prefix contains a name that programs give to averaged weights."""
    return bool(AVERAGED.search(prefix))


def find_network(
    dicts: TensorDicts, landmarks: Landmarks, prefix: str | None, source: object
) -> FoundNetwork:
    """Finds the network in a file.

    If the file holds a network and the moving average of its weights, the averaged network is
    returned.

    Args:
        prefix: chooses one of several networks; None for the only network or the averaged one.
        source: the name of the file in messages.

    Raises:
        UserError: there is no such network, or there are several and no prefix is given.
    """
    locations = _locate_networks(dicts, landmarks) or [_locate_classifier(dicts, landmarks, source)]
    if prefix is None:
        chosen = _choose_default(locations, source)
    else:
        chosen = _choose_by_prefix(locations, prefix, source)
    prefixes = {each.prefix for each in locations if each.dict_path == chosen.dict_path}
    tensors, left_out = {}, []
    for name, tensor in dicts[chosen.dict_path].items():
        owner = _longest_prefix(prefixes, name)
        if owner == chosen.prefix and not LOSS_OR_METRIC.match(name, len(chosen.prefix)):
            tensors[name.removeprefix(chosen.prefix)] = tensor
        elif owner in (chosen.prefix, None) and name != AVERAGED_MODEL_COUNTER:
            left_out.append(join_names(chosen.dict_path, name))
    others = [each.full_prefix for each in locations if each != chosen]
    return FoundNetwork(tensors, chosen.full_prefix, others, left_out)


def _locate_networks(dicts: TensorDicts, landmarks: Landmarks) -> list[Location]:
    """Returns the places where a first convolution and a classifier have the same prefix."""
    return [
        location
        for location in _locate(dicts, landmarks.classifier_kernels)
        if location.prefix + landmarks.first_kernel in dicts[location.dict_path]
    ]


def _locate(dicts: TensorDicts, names: Iterable[str]) -> list[Location]:
    """Returns the places of tensors with one of these names, each place once."""
    endings = tuple(names)
    return [
        Location(dict_path, prefix)
        for dict_path, tensors in dicts.items()
        for prefix in dict.fromkeys(
            name.removesuffix(ending)
            for name in tensors
            if name.endswith(endings)
            for ending in endings
            if name == ending or name.endswith(f".{ending}")
        )
    ]


def _longest_prefix(prefixes: Collection[str], name: str) -> str | None:
    """Returns the longest of some prefixes that a name begins with, or None."""
    ends = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return next((name[:end] for end in reversed(ends) if name[:end] in prefixes), None)


def _locate_classifier(dicts: TensorDicts, landmarks: Landmarks, source: object) -> Location:
    """Returns the location of a classifier that has no first convolution beside it.

    Raises:
        UserError: there is no classifier, or most tensors belong to a network without a classifier.
    """
    classifiers = _locate(dicts, landmarks.classifier_kernels)
    bodies = _locate(dicts, [landmarks.first_kernel])
    if classifiers:
        bodies = [body for body in bodies if _has_most(dicts[body.dict_path], body.prefix)]
    if classifiers and not bodies:
        return min(classifiers, key=lambda location: len(location.full_prefix))
    if bodies:
        body = min((location.full_prefix for location in bodies), key=len)
        expected = " or ".join(body + name for name in landmarks.classifier_kernels)
        raise UserError(
            f'{source} has a network under "{body}" without a classifier {expected} '
            "[classes, features]; give its classifier that name, or train a classifier in PyTorch"
        )
    names = [join_names(dict_path, name) for dict_path in dicts for name in dicts[dict_path]]
    raise UserError(
        f"{source} has no classifier {' or '.join(landmarks.classifier_kernels)} "
        f"[classes, features] beside {landmarks.first_kernel}; it has {first_few(names)}; name "
        "the network that it was trained with"
    )


def _has_most(tensors: Mapping[str, StoredTensor], prefix: str) -> bool:
    """Whether most tensors have this prefix, as that of a network and not of a block within it."""
    return 2 * sum(name.startswith(prefix) for name in tensors) > len(tensors)


def _choose_default(locations: Sequence[Location], source: object) -> Location:
    """Returns the only network, or the averaged one of two."""
    averaged = [each for each in locations if is_averaged(each.full_prefix)]
    if len(locations) == 2 and len(averaged) == 1:
        return averaged[0]
    if len(locations) > 1:
        raise UserError(
            f"{source} holds {len(locations)} networks, under {_quote(locations)}; choose with "
            "--prefix"
        )
    return locations[0]


def _choose_by_prefix(locations: Sequence[Location], prefix: str, source: object) -> Location:
    """Returns the network of a prefix, which may omit the first parts of the full prefix."""
    prefix = without_wrappers(prefix if prefix.endswith(".") or not prefix else f"{prefix}.")
    found = [each for each in locations if each.full_prefix == prefix]
    if prefix and not found:
        found = [each for each in locations if each.full_prefix.endswith(f".{prefix}")]
    if len(found) != 1:
        raise UserError(
            f'{source} holds {len(found) or "no"} networks under "{prefix}"; --prefix may be '
            f"{_quote(locations)}"
        )
    return found[0]


def _quote(locations: Sequence[Location]) -> str:
    return first_few([f'"{each.full_prefix}"' for each in locations])
