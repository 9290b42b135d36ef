"""The sides of a comparison: a backend each, with a dtype and a number of devices if named."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keras_imnet64.backend.devices import check_installed
from keras_imnet64.backend.environment import check_environment
from keras_imnet64.backend.keras_settings import check_keras_json
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.recipe.loading import as_recipe
from keras_imnet64.recipe.schema import LayerSection, Recipe

SYNTAX = re.compile(r"(?P<backend>[a-z]+)(:(?P<dtype>\w+))?(@(?P<devices>\d+))?")
DTYPES = ("float32", "mixed_bfloat16")
MIN_SIDES, MAX_SIDES = 2, 10  # as many colours as can be told apart
ENVIRONMENT = {"KERAS_IMNET64_PROGRAMS_DIR": "off"}  # the first step compiles


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        dtype: None for that of the recipe.
        devices: how many; None for all.
    """

    backend: str
    dtype: str | None = None
    devices: str | None = None

    @property
    def label(self) -> str:
        """What the user typed, such as "tensorflow:mixed_bfloat16@2"."""
        dtype = f":{self.dtype}" if self.dtype else ""
        return f"{self.backend}{dtype}" + (f"@{self.devices}" if self.devices else "")

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its process beside those of this one."""
        return ENVIRONMENT | {"KERAS_BACKEND": self.backend}

    def recipe(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with the side's dtype."""
        if self.dtype is None:
            return recipe
        train = recipe.train.model_copy(update={"dtype": self.dtype})
        return as_recipe(recipe.model_copy(update={"train": train}))


def parse_sides(texts: Sequence[str]) -> list[Side]:
    """Returns the sides of texts such as "jax@2"; refuses what is not one or is not here."""
    check_keras_json()
    sides = [_parse(text) for text in texts]
    if not MIN_SIDES <= len(sides) <= MAX_SIDES:
        raise UserError(
            f"a comparison has {MIN_SIDES} to {MAX_SIDES} sides, such as --backends "
            f'tensorflow,jax; received "{",".join(texts)}"'
        )
    if len(set(sides)) < len(sides):
        raise UserError(
            f'each side of a comparison must be another one; received "{",".join(texts)}"'
        )
    for side in sides:
        check_installed(side.backend)
        check_environment(side.backend)
        if side.backend == "torch" and side.devices is not None:
            raise UserError(
                f'side "{side.label}": torch trains on one device here; leave out @{side.devices}'
            )
    return sides


def _parse(text: str) -> Side:
    found = SYNTAX.fullmatch(text)
    if not found:
        raise UserError(
            "a side is a backend with :dtype and @devices if wanted, such as jax or "
            f'tensorflow:mixed_bfloat16@2; received "{text}"'
        )
    dtype = found["dtype"]
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f'side "{text}": dtype "{dtype}" is not known; {nearest(dtype, DTYPES)}')
    return Side(found["backend"], dtype, found["devices"])


def check_exact(recipe: Recipe) -> None:
    """Refuses a recipe whose images two sides cannot have alike."""
    foreign = [each.layer for each in recipe.augment if isinstance(each, LayerSection)]
    if foreign:
        raise UserError(
            f"recipe {recipe.name}: {foreign[0]} draws its own random numbers, so no two sides "
            "have the same images: remove it from [[augment]] to compare"
        )
