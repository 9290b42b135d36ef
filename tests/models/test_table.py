"""The table of networks agrees with the builders' signatures."""

import inspect
from importlib import import_module

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.options import REQUIRED
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
    options = {
        p.name: REQUIRED if p.default is p.empty else p.default
        for p in parameters
        if p.name not in common
    }
    assert options == row.defaults


@pytest.mark.parametrize("name", MODELS)
def test_texts_of_options_are_the_builders(name):
    """Every stem of the table is one that the family's file has, and none is left out."""
    row = MODELS[name]
    stems = getattr(import_module(f"keras_imnet64.models.{row.module}"), "STEMS", {})
    texts = row.options["stem"].texts if "stem" in row.options else ()
    assert set(texts) - {"auto"} == set(stems)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match='did you mean "wide_resnet"'):
        build_model("wide_resnt", image_size=16, num_classes=10)
