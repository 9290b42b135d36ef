"""The table of networks agrees with the builders' signatures."""

import inspect
from importlib import import_module
from typing import get_args

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import MODELS, build_model


@pytest.mark.parametrize("name", MODELS)
def test_row_is_the_builders_signature(name):
    row = MODELS[name]
    parameters = inspect.signature(
        import_module(f"keras_imnet64.models.{row.module}").build
    ).parameters.values()
    common = {"image_size", "num_classes", "normalization"} | (
        {"variant"} if row.variant else set()
    )
    in_builder = {p.name: p.default for p in parameters if p.name not in common}
    in_table = {
        name: inspect.Parameter.empty if field.is_required() else field.default
        for name, field in row.options.option_fields().items()
        if name != "init"  # `build_model` takes it
    }
    assert in_builder == in_table


@pytest.mark.parametrize("name", MODELS)
def test_stems_are_the_builders(name):
    """Every stem of the table is in the family's module, and none is left out."""
    row = MODELS[name]
    in_module = getattr(import_module(f"keras_imnet64.models.{row.module}"), "STEMS", {})
    field = row.options.option_fields().get("stem")
    in_table = get_args(field.annotation) if field else ()
    assert set(in_table) - {"auto"} == set(in_module)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match='did you mean "wide_resnet"'):
        build_model("wide_resnt", image_size=16, num_classes=10)
