"""Decides which `[[optimizer.groups]]` table of a recipe applies to each trainable variable.

`optim` multiplies learning rates and the decoupled decay by a group's factors, `loss` the L2
penalty. Needs no Keras.
"""

import re
from collections.abc import Collection, Sequence

from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.optimizers import GroupOptions


def group_of_each(
    groups: Sequence[GroupOptions], paths: Collection[str]
) -> dict[str, GroupOptions | None]:
    """Returns {path: the first group whose regular expression is found in the path, or None}.

    Args:
        paths: of all trainable variables.

    Raises:
        UserError: a group applies to no variable, or its expression matches all of them.
    """
    chosen: dict[str, GroupOptions | None] = dict.fromkeys(paths)
    for number, group in enumerate(groups):
        key = f"optimizer.groups.{number}.variables"
        matched = [path for path in chosen if re.search(group.variables, path)]
        if not matched:
            raise UserError(
                f"{key} must match the path of a trainable variable, such as "
                f'"{next(iter(chosen), "logits/kernel")}"; received "{group.variables}"'
            )
        if len(matched) == len(chosen):
            raise UserError(
                f'{key} must not match every trainable variable; received "{group.variables}": '
                "change optimizer.learning_rate, optimizer.weight_decay or loss.l2 instead"
            )
        free = [path for path in matched if chosen[path] is None]
        if not free:
            raise UserError(
                f"{key} must match a variable that no group above it matches; received "
                f'"{group.variables}": put the more special group first'
            )
        chosen |= dict.fromkeys(free, group)
    return chosen


def check_groups(
    groups: Sequence[GroupOptions], paths: Collection[str], decayed: Collection[str]
) -> None:
    """Refuses groups that apply to no variable, or that change nothing.

    Args:
        paths: of all trainable variables.
        decayed: the paths of those to which a decay applies.
    """
    chosen = group_of_each(groups, paths)
    for number, group in enumerate(groups):
        own, where = [p for p, of in chosen.items() if of is group], f"optimizer.groups.{number}"
        if group.weight_decay_factor != 1 and not set(own) & set(decayed):
            raise UserError(
                f"{where}.weight_decay_factor has no decay to multiply: optimizer.weight_decay "
                'leaves out biases and norms, loss.l2 all but weights unless loss.l2_of is "all"; '
                f'received {group.weight_decay_factor} for "{group.variables}", such as {own[0]}'
            )
        if group.learning_rate_factor == group.weight_decay_factor == 1 and not any(
            re.search(later.variables, path) for later in groups[number + 1 :] for path in own
        ):
            raise UserError(
                f"{where} changes nothing, as both of its factors are 1 and no group below it "
                f'matches its variables; received "{group.variables}": set a factor or remove it'
            )
