"""The reference of the networks: size and cost of each, and the options of each family."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras_imnet64.models
from generate.markdown import bullets, code, entries, heading, page, paragraphs, prose, table
from generate.recipe_keys import option_table, shared_table
from keras_imnet64.core.types import Options
from keras_imnet64.models import MODELS
from keras_imnet64.models.options import (
    ChannelNormalization,
    FileOptions,
    NetworkOptions,
    Whitening,
)


@dataclass(frozen=True)
class Figures:
    """What a network costs at one size. `tests/models/test_counts.py` counts all of them anew.

    Attributes:
        image_size: pixels per side.
        num_classes: the number of classes.
        parameters: the number of trainable parameters.
        giga_macs: billions of multiply-accumulates for one image, with two decimals.
        options: those without which the network cannot be built.
    """

    image_size: int
    num_classes: int
    parameters: int
    giga_macs: str
    options: Options = field(default_factory=dict)


FIGURES = {
    "wide_resnet": Figures(64, 1000, 37_638_264, "7.05", {"depth": 36, "width": 5}),
    "resnet18": Figures(224, 1000, 11_689_512, "1.81"),
    "resnet34": Figures(224, 1000, 21_797_672, "3.66"),
    "resnet50": Figures(224, 1000, 25_557_032, "4.09"),
    "resnet101": Figures(224, 1000, 44_549_160, "7.80"),
    "resnet152": Figures(224, 1000, 60_192_808, "11.51"),
    "wide_resnet50_2": Figures(224, 1000, 68_883_240, "11.40"),
    "small_resnet": Figures(64, 200, 5_000_712, "0.25"),
    "davit_tiny": Figures(224, 1000, 28_360_168, "4.52"),
    "davit_small": Figures(224, 1000, 49_745_896, "8.77"),
    "davit_base": Figures(224, 1000, 87_954_408, "15.47"),
    "davit_large": Figures(224, 1000, 196_811_752, "34.54"),
    "davit_huge": Figures(224, 1000, 348_922_856, "61.16"),
    "davit_giant": Figures(224, 1000, 1_406_470_120, "192.79"),
    "alexnet": Figures(224, 1000, 61_100_840, "0.71"),
    "vgg16": Figures(224, 1000, 138_357_544, "15.47"),
    "vgg16_bn": Figures(224, 1000, 138_365_992, "15.47"),
    "tiny_cnn1": Figures(64, 200, 4_790_728, "0.59"),
    "tiny_cnn2": Figures(64, 200, 1_725_528, "0.37"),
    "spectral": Figures(224, 1000, 87_190_688, "3.86", {"factor": 2, "base": {"name": "resnet34"}}),
}


def networks_page() -> str:
    """Returns the page of all networks."""
    families: dict[str, list[str]] = {}
    for name, model in MODELS.items():
        families.setdefault(model.module, []).append(name)
    return page(
        "Networks",
        "What `model.name` of a recipe and [`build_model`](python-api.md) can be. Each is a plain "
        "Keras functional model from raw pixels to logits, with its normalisation inside. "
        "Parameters are the trainable ones, MACs multiply-accumulates for one image; both depend "
        "on the pixels per side and the number of classes.",
        table(
            ["network", "parameters", "MACs", "pixels", "classes"],
            [figures_row(name, module) for module, names in families.items() for name in names],
        ),
        "Tests compare the counts with published ones, and the logits with those of torchvision's, "
        "timm's or the paper's network for the same weights and images.",
        heading(2, "Options of every network", "every-network"),
        shared_table(NetworkOptions, "model", skip=("name",), anchors=False),
        "`normalization` can also be a table:",
        option_table(ChannelNormalization, "model.normalization", anchors=False),
        *(family(module, names) for module, names in families.items()),
        heading(2, "`file`: a model from a file", "file"),
        paragraphs(FileOptions.__doc__ or ""),
        option_table(FileOptions, "model", only=("path", "sha256"), anchors=False),
        heading(2, "`whitening`", "whitening"),
        paragraphs(Whitening.__doc__ or ""),
        option_table(Whitening, "model.whitening", anchors=False),
    )


def figures_row(name: str, module: str) -> list[str]:
    """Returns the cells of a network in the table of figures."""
    figures = FIGURES[name]
    options = ", ".join(f"{key} {in_words(value)}" for key, value in figures.options.items())
    return [
        f"[{code(name)}](#{module})" + (f", {options}" if options else ""),
        f"{figures.parameters:,}",
        f"{figures.giga_macs} G",
        str(figures.image_size),
        f"{figures.num_classes:,}",
    ]


def in_words(value: object) -> str:
    return code(value["name"]) if isinstance(value, dict) else str(value)


def family(module: str, names: Sequence[str]) -> str:
    """Returns what a family is, which sizes of images it takes, and its own options."""
    source = (Path(keras_imnet64.models.__file__).parent / f"{module}.py").read_text("utf-8")
    tree = ast.parse(source)
    (build,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "build"]
    sizes = entries(ast.get_docstring(build) or "", "Args")["image_size"]
    options = MODELS[names[0]].options
    parts = [
        heading(2, ", ".join(map(code, names)), module),
        paragraphs(ast.get_docstring(tree) or ""),
        bullets([f"Image size: {prose(sizes)}"]),
        option_table(options, "model", only=tuple(options.option_fields()), anchors=False),
    ]
    return "\n\n".join(parts)
