"""Finds a network among the tensors of a file: behind which prefix of their names it lies.

A wrapper puts its attribute's name before those of the network (`model.`, `module.`,
`timm_model.`), and a checkpoint keeps the whole under a key (`state_dict`). Both together are the
prefix here, such as "state_dict.model.". The network is where its first convolution and its
classifier lie side by side.
"""

import re
from dataclasses import dataclass

from keras_imnet64.convert.tensor_files import joined, without_wrappers
from keras_imnet64.core.errors import UserError, first_few

AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?)(?=[._])", re.IGNORECASE)
STEPS_AVERAGED = "n_averaged"  # of AveragedModel, no part of the network
# Of losses and metrics, which no network computes its logits with.
BESIDES = re.compile(r"(?:criterion|(?:\w+_)?loss(?:_fn|_function)?|(?:\w+_)?metrics?)\.")


@dataclass(frozen=True)
class Network:
    """A network in a file.

    Attributes:
        tensors: {name: Held}, without the prefix.
        prefix: what their names in the file begin with, "" or up to a dot.
        others: prefixes of further networks in the file.
        left_out: names in the file, of the same dict, that belong to none of these networks.
    """

    tensors: dict
    prefix: str
    others: list
    left_out: list

    @property
    def is_averaged(self):
        return is_averaged(self.prefix)


def is_averaged(prefix):
    """Whether a prefix is that of averaged weights, by the names that programs give them."""
    return bool(AVERAGED.search(prefix))


def find_network(states, first, classifiers, prefix, who):
    """The network in the states of a file.

    Where it is there plain and averaged, as training programs keep it, the averaged one is taken.

    Args:
        states: {where: {name: Held}}, see `read_tensors`.
        first, classifiers: names that tensors of this network have; of its first convolution, and
            of its classifier, which may have one of several.
        prefix: the network that is wanted, if the file holds several; None where that is not said.
        who: what a message calls the file.

    Raises:
        UserError: there is no such network, or there are several and none is asked for.
    """
    roots = _roots(states, first, classifiers) or _nearest(states, first, classifiers, who)
    where, inner = _asked(roots, prefix, who) if prefix is not None else _only(roots, who)
    networks = {p for w, p in roots if w == where}
    tensors, left_out = {}, []
    for name, tensor in states[where].items():
        owner = _longest(networks, name)
        if owner == inner and not BESIDES.match(name, len(inner)):
            tensors[name.removeprefix(inner)] = tensor
        elif owner in (inner, None) and name != STEPS_AVERAGED:
            left_out.append(joined(where, name))
    others = [joined(*root) for root in roots if root != (where, inner)]
    return Network(tensors, joined(where, inner), others, left_out)


def _roots(states, first, classifiers):
    """[(where, prefix)] of all that have the first convolution and the classifier."""
    return [
        (where, prefix)
        for where, tensors in states.items()
        for prefix in _before(tensors, classifiers)
        if prefix + first in tensors
    ]


def _before(tensors, endings):
    """What stands before these endings in the names of tensors, each once."""
    endings = tuple(endings)
    return dict.fromkeys(
        name.removesuffix(ending)
        for name in tensors
        if name.endswith(endings)
        for ending in endings
        if name == ending or name.endswith(f".{ending}")
    )


def _longest(prefixes, name):
    """The longest of some prefixes that a name begins with; None if it begins with none."""
    ends = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return next((name[:end] for end in reversed(ends) if name[:end] in prefixes), None)


def _nearest(states, first, classifiers, who):
    """The classifier of a file without a first convolution; UserError if there is none either."""
    found = [(w, p) for w, tensors in states.items() for p in _before(tensors, classifiers)]
    bodies = [(w, p) for w, tensors in states.items() for p in _before(tensors, [first])]
    if found:
        bodies = [(w, p) for w, p in bodies if _holds_most(states[w], p)]
    if found and not bodies:
        return [min(found, key=lambda root: len(joined(*root)))]
    if bodies:
        body = min((joined(*root) for root in bodies), key=len)
        raise UserError(
            f'{who} has a network under "{body}" without a classifier '
            f"{' or '.join(body + name for name in classifiers)} [classes, features]; give its "
            "classifier that name, or train one in PyTorch"
        )
    names = [joined(where, name) for where, tensors in states.items() for name in tensors]
    raise UserError(
        f"{who} has no classifier {' or '.join(classifiers)} [classes, features] beside {first}, "
        f"but {first_few(names)}; name the network that it was trained with"
    )


def _holds_most(tensors, prefix):
    """Whether a prefix is that of a network and not of a block within one."""
    return 2 * sum(name.startswith(prefix) for name in tensors) > len(tensors)


def _only(roots, who):
    """The one network, or the averaged one of two; UserError if it must be asked which."""
    averaged = [root for root in roots if is_averaged(joined(*root))]
    if len(roots) == 2 and len(averaged) == 1:
        return averaged[0]
    if len(roots) > 1:
        raise UserError(
            f"{who} holds {len(roots)} networks, under {_quoted(roots)}; choose with --prefix"
        )
    return roots[0]


def _asked(roots, prefix, who):
    """The network of a prefix, which may leave out the key of the dict that it lies in."""
    prefix = without_wrappers(prefix if prefix.endswith(".") or not prefix else f"{prefix}.")
    whole = [root for root in roots if joined(*root) == prefix]
    ends = [root for root in roots if prefix and f".{joined(*root)}".endswith(f".{prefix}")]
    found = whole or ends
    if len(found) != 1:
        raise UserError(
            f'{who} holds {len(found) or "no"} networks under "{prefix}"; --prefix may be '
            f"{_quoted(roots)}"
        )
    return found[0]


def _quoted(roots):
    return first_few([f'"{joined(*root)}"' for root in roots])
