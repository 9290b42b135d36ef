"""The base classes of recipe tables, which are pydantic models, and how a table is checked.

The networks, the augmentations and the recipe each declare their tables as subclasses of `Table`.
"""

from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Json, JsonObject


class Table(BaseModel):
    """A table of a recipe: types are strict, unknown keys are refused, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True
    )


WITH_DEFAULTS = "with defaults"  # as a dump's context: options that are not set are written too


class TaggedTable(Table):
    """A table whose options depend on the value of one key, such as `model` on its `name`.

    A direct subclass declares the keys that all such tables share, and its subclasses declare the
    options. Shared keys are always written out; options only where the recipe sets them.
    """

    shared_keys: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # passed on to pydantic
        super().__pydantic_init_subclass__(**kwargs)
        if TaggedTable in cls.__bases__:
            cls.shared_keys = frozenset(cls.model_fields)

    @classmethod
    def tags(cls) -> tuple[str, ...]:
        """Returns the names for which this is the table."""
        tag = next(iter(cls.model_fields))
        return get_args(cls.model_fields[tag].annotation)

    @classmethod
    def option_fields(cls) -> dict[str, FieldInfo]:
        return {key: f for key, f in cls.model_fields.items() if key not in cls.shared_keys}

    @property
    def options(self) -> JsonObject:
        """The options that the recipe sets, as plain values."""
        return {k: v for k, v in self.model_dump().items() if k not in self.shared_keys}

    @property
    def all_options(self) -> JsonObject:
        """All options, those at their defaults included."""
        return {key: getattr(self, key) for key in self.option_fields()}

    @model_serializer(mode="wrap")
    def _omit_defaults_of_options(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> JsonObject:
        written = self.shared_keys | self.model_fields_set
        is_whole = info.context == WITH_DEFAULTS
        return {key: value for key, value in dump(self).items() if is_whole or key in written}


def by_tag(union: Any) -> dict[str, type[Any]]:  # an Annotated union has no static type
    """Returns {name: table} of a union of tagged tables, `Annotated[A | B, ...]`."""
    return {tag: table for table in get_args(get_args(union)[0]) for tag in table.tags()}


def _keep_as_written(value: Json, check: ValidatorFunctionWrapHandler) -> Json:
    check(value)
    return value


# `width = 5` in a recipe is saved, shown and compared as 5, not as 5.0.
AS_WRITTEN = WrapValidator(_keep_as_written)
Number = Annotated[float, AS_WRITTEN]
Fraction = Annotated[float, Field(ge=0, le=1), AS_WRITTEN]
Rate = Annotated[float, Field(ge=0, lt=1), AS_WRITTEN]


def expected(words: str) -> PydanticCustomError:
    """Returns the error of a validator: "<key> must be <words>; received ..."."""
    return PydanticCustomError("expected", "{words}", {"words": words})


def not_as_described() -> PydanticCustomError:
    """Returns the error of a validator whose field says in its JSON Schema what is expected."""
    return PydanticCustomError("not_as_described", "it is not as described")


def broken_rule(words: str) -> PydanticCustomError:
    """Returns the error of a tagged table's validator: "<table> "<name>" <words>"."""
    return PydanticCustomError("broken_rule", "{words}", {"words": words})


AnyTable = TypeVar("AnyTable", bound=Table)


def parse_table(kind: type[AnyTable], values: Json, where: str = "") -> AnyTable:
    """Returns the table with these plain values.

    Args:
        where: the dotted key of the table, for the messages; "" for a whole recipe.

    Raises:
        UserError: names the first key that is wrong, what was received and what would work.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        from keras_imnet64.core.table_errors import error_message

        raise UserError(error_message(error, kind, values, where)) from error
