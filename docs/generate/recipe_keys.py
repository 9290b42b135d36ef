"""The reference of recipe files: every key, from the schema that checks recipes.

Networks have a page of their own, see `networks`; augmentations, optimizers, schedules and losses
have theirs here.
"""

from collections.abc import Collection, Mapping
from functools import cache

from generate.markdown import code, fence, heading, page, paragraphs, prose, table
from keras_imnet64.core.table_errors import Schema
from keras_imnet64.core.tables import Table, TaggedTable
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.data.augment.options import OPS
from keras_imnet64.models.options import NetworkOptions
from keras_imnet64.recipe.json_schema import json_schema
from keras_imnet64.recipe.loading import recipes_dir
from keras_imnet64.recipe.optimizers import (
    OPTIMIZER_TABLES,
    SCHEDULE_TABLES,
    GroupOptions,
    LookaheadOptions,
    OptimizerOptions,
    ScheduleOptions,
)
from keras_imnet64.recipe.schema import (
    DataSection,
    EvaluationSection,
    LayerSection,
    LossSection,
    Recipe,
    ResultSection,
    TrainSection,
)

HEADINGS = ("key", "value", "default", "what it does")


def keys_page() -> str:
    """Returns the page of all tables of a recipe but the options of what has a page of its own."""
    return page(
        "Recipe keys",
        "A recipe is a TOML file. This is the whole of `demo`:",
        fence((recipes_dir() / "demo.toml").read_text("utf-8"), "toml"),
        "Unknown keys and values of a wrong kind are refused, with the nearest that would work. "
        "`--set KEY=VALUE` overrides a key, as in `--set train.epochs=3`. "
        "`python cli.py recipes schema` prints the JSON Schema of recipes, with which editors "
        "complete and check them; [Your own recipe](../guides/recipes.md) says how.",
        section("Top level", "top-level", option_table(Recipe, "", only=("name",))),
        section(
            "`[model]`",
            "model",
            "The network. Its options stand beside its name, see [Networks](networks.md).",
            shared_table(NetworkOptions, "model"),
        ),
        section("`[data]`", "data", about(DataSection), option_table(DataSection, "data")),
        section(
            "`[[augment]]`",
            "augment",
            "A step of augmentation. The steps take their turn in the order of the file, after "
            "`data.mirror`. Each has either `op`, one of the operations in "
            "[Augmentations](augmentations.md), or `layer`, a preprocessing layer of Keras or "
            "KerasCV; the options stand beside it.",
        ),
        section("`[loss]`", "loss", about(LossSection), option_table(LossSection, "loss")),
        section(
            "`[optimizer]`",
            "optimizer",
            "How weights are updated. The options of each optimizer, and the tables of "
            "[groups](optimizers.md#groups) and [Lookahead](optimizers.md#lookahead), are in "
            "[Optimizers](optimizers.md).",
            shared_table(OptimizerOptions, "optimizer"),
        ),
        section(
            "`[schedule]`",
            "schedule",
            "The learning rate in the course of the run, see [Schedules](optimizers.md#schedules).",
            shared_table(ScheduleOptions, "schedule"),
        ),
        section("`[train]`", "train", about(TrainSection), option_table(TrainSection, "train")),
        section(
            "`[evaluation]`",
            "evaluation",
            about(EvaluationSection),
            option_table(EvaluationSection, "evaluation"),
        ),
        section(
            "`[reference]` and `[measured.BACKEND]`",
            "reference",
            about(ResultSection),
            "`[reference]` is what the source of the recipe reports, `[measured.tensorflow]` and "
            "`[measured.jax]` what this package reached. Training does not read them.",
            option_table(ResultSection, "reference"),
        ),
    )


def augmentations_page() -> str:
    """Returns the page of what can stand in [[augment]]."""
    mirror = option_table(DataSection, "data", only=("mirror",), anchors=False)
    return page(
        "Augmentations",
        "Each `[[augment]]` table of a recipe is a step; the steps take their turn in the order "
        "of the file, after mirroring. What is drawn depends on the seed, the epoch and the "
        "image's place in it alone. `python cli.py data preview --recipe demo --steps --out "
        "sheet.png` shows each step on the same images.",
        table(
            ["op", "what it does"],
            [[f"[{code(op)}](#{op})", paragraphs(kind.__doc__ or "")] for op, kind in OPS.items()],
        ),
        '"As torchvision" is tested against torchvision 0.28 on drawn images: the same values '
        "where values change, within a grey level where pixels move.",
        section("Mirroring", "mirror", "A key of `[data]`, before the steps:", mirror),
        *(tagged(op, kind, "augment") for op, kind in OPS.items()),
        section(
            "Layers of Keras or KerasCV",
            "layer",
            about(LayerSection),
            "Its arguments are the keys beside `layer`, as in "
            "[`tiny20_wrn_cutout`](recipes.md#tiny20_wrn_cutout). Such a layer draws its own "
            "random numbers, so the run can be neither repeated nor resumed bit for bit: it says "
            "so at its start, and in `environment.json`.",
            option_table(LayerSection, "augment", anchors=False),
        ),
    )


def optimizers_page() -> str:
    """Returns the page of optimizers, schedules and losses."""
    return page(
        "Optimizers, schedules, losses",
        "Their names are the key `name` of `[optimizer]`, `[schedule]` and `[loss]` in a recipe.",
        section(
            "Every optimizer",
            "optimizers",
            shared_table(OptimizerOptions, "optimizer"),
        ),
        *(
            tagged(name, kind, "optimizer", also=("clip_norm",) if name == "lamb" else ())
            for name, kind in OPTIMIZER_TABLES.items()
        ),
        section(
            "`[[optimizer.groups]]`",
            "groups",
            about(GroupOptions),
            option_table(GroupOptions, "optimizer.groups", anchors=False),
        ),
        section(
            "`optimizer.lookahead`",
            "lookahead",
            about(LookaheadOptions),
            option_table(LookaheadOptions, "optimizer.lookahead", anchors=False),
        ),
        section("Every schedule", "schedules", shared_table(ScheduleOptions, "schedule")),
        *(tagged(name, kind, "schedule") for name, kind in SCHEDULE_TABLES.items()),
        section(
            "Losses",
            "losses",
            about(LossSection),
            option_table(LossSection, "loss", anchors=False),
        ),
    )


def section(title: str, anchor: str, *parts: str) -> str:
    """Returns a section of a page: a heading and its parts."""
    return "\n\n".join([heading(2, title, anchor), *filter(None, parts)])


def tagged(name: str, kind: type[TaggedTable], prefix: str, also: Collection[str] = ()) -> str:
    """Returns the section of an operation, optimizer or schedule: what it is, its own options.

    Args:
        also: shared keys whose default is another one here.
    """
    own = (*also, *kind.option_fields())
    return section(
        code(name), name, about(kind), option_table(kind, prefix, only=own, anchors=False)
    )


def about(kind: type[Table]) -> str:
    """Returns the docstring of a table itself; those of its base classes are about all kinds."""
    text = kind.__dict__.get("__doc__")
    if not text:
        raise ValueError(f"{kind.__name__} needs a docstring, which the reference shows")
    return paragraphs(text)


def shared_table(
    kind: type[TaggedTable], prefix: str, skip: Collection[str] = (), *, anchors: bool = True
) -> str:
    """Returns the table of the keys that all kinds of a table share.

    `kind` is the base class, which is no table of a recipe itself: the schema knows its keys from
    one of its subclasses, and says of the name, which each of them restricts, what all allow.
    """
    names = [name for sub in subclasses(kind) for name in sub.tags()]
    first = next(iter(subclasses(kind)))
    quoted = ", ".join(f'"{name}"' for name in names)
    words = {"name": prose(f"one of {quoted}")}
    only = [key for key in kind.model_fields if key not in skip]
    return option_table(first, prefix, only=only, words=words, anchors=anchors)


def subclasses(kind: type[TaggedTable]) -> list[type[TaggedTable]]:
    """Returns the tables of a recipe below a base class, in the order of their definition."""
    found = []
    for sub in kind.__subclasses__():
        found += [sub] if sub.__name__ in definitions() else subclasses(sub)
    return found


def option_table(
    kind: type[Table],
    prefix: str,
    *,
    only: Collection[str] | None = None,
    words: Mapping[str, str] | None = None,
    anchors: bool = True,
) -> str:
    """Returns the table of a recipe table's keys: values, defaults and descriptions.

    Args:
        prefix: the dotted key of the table, which the anchors begin with.
        only: the keys to show; None shows all.
        words: what a value may be, of keys for which the schema of `kind` does not say it.
    """
    node = definitions()[kind.__name__]
    rows = []
    for key in kind.model_fields if only is None else only:
        value = node["properties"][key]
        if "description" not in value:
            raise ValueError(f"{kind.__name__}.{key} needs a string below it that describes it")
        rows.append(
            [
                code(key, f"{prefix}.{key}".lstrip(".") if anchors else ""),
                (words or {}).get(key) or prose(Schema(json_schema()).in_words(value)),
                default_in_words(key, node),
                prose(value["description"]),
            ]
        )
    return table(HEADINGS, rows)


@cache
def definitions() -> dict[str, JsonObject]:
    """Returns the JSON Schemas of all tables by the names of their classes."""
    schema = json_schema()
    return {Recipe.__name__: schema, **schema["$defs"]}


def default_in_words(key: str, table: JsonObject) -> str:
    """Returns the default of a key; "-" where the description says it."""
    if key in table.get("required", ()):
        return "required"
    value = table["properties"][key]
    return default_of(value["default"]) if "default" in value else "-"


def default_of(value: Json) -> str:
    """Returns a default as TOML; "none" where a key that is left out has no value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, str):
        return code(f'"{value}"')
    if isinstance(value, list):
        return code([round(v, 4) if isinstance(v, float) else v for v in value])
    return code(value)
