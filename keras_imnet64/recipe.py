"""Recipes: what to train, as complete and readable TOML, checked before anything else happens.

This file owns the schema, where recipes are found, how they are loaded, overridden and saved. What
the networks, optimizers and augmentations accept is owned by their tables.
"""

import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from keras_imnet64.data.augment import OPS, check_augment
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.data.layers import check_layer_name
from keras_imnet64.errors import UserError, nearest, reason
from keras_imnet64.files import decode_text, depth, expand, read_small
from keras_imnet64.models import find_model

FILE_BYTES = 2**20  # ours have 2 KB
MOST_PARTS = 16  # of a dotted key, and tables and lists within each other
KEY_FORBIDS = set("[]#\r")  # the line is one key and one value, not a table or a comment
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}){{{MOST_PARTS}}}")  # tomllib would take hours

Count = Annotated[int, Field(ge=0, le=10**9)]  # what is made of them fits 32 bits
Positive = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(ge=0, lt=1)]
CHECKPOINT_EVERY = r"^([1-9]\d{0,5} (min|steps)|epoch)$"
NonNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of a recipe: strict types, no unknown keys, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenSection(Section):
    """A table with a `name` and the options of what it names, which the named thing checks."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    @property
    def options(self):
        return dict(self.__pydantic_extra__)


class ChannelNormalization(Section):
    """Mean and standard deviation per channel on the 0..1 pixel scale."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]


class ModelSection(OpenSection):
    name: str
    # mean_image: per pixel and channel, no division; dataset: mean and std per channel.
    normalization: Literal["imagenet", "mean_image", "dataset"] | ChannelNormalization = "imagenet"

    @property
    def in_words(self):
        """Name and options, as listings and the first lines of a run have them."""
        return network_in_words(self.name, self.options)


def network_in_words(name, options):
    return " ".join([name, *(f"{key}={_option_in_words(value)}" for key, value in options.items())])


def _option_in_words(value):
    if isinstance(value, dict):
        options = {key: option for key, option in value.items() if key != "name"}
        return f"({network_in_words(value.get('name'), options)})"
    return str(value).lower() if isinstance(value, bool) else value


class DataSection(Section):
    dataset: str
    batch_size: Positive  # global, over all devices
    # Alternating: mirrored in every other epoch; both: each image and its mirror, in each epoch.
    mirror: Literal["none", "random", "alternating", "both"] = "random"
    classes: Positive | None = None  # only the first so many class ids in sorted order
    holdout: Count = 0  # images of train kept for model selection
    steps_per_epoch: Positive | None = None  # stop an epoch early; default: all whole batches
    in_memory: Literal["auto", "always", "never"] = "auto"
    # Pixels per side that the model is shown; only for sets whose pictures have any size.
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None


class AugmentSection(OpenSection):
    op: str | None = None  # of ours, or
    layer: str | None = None  # the public name of a Keras or KerasCV preprocessing layer

    @model_validator(mode="after")
    def _names_one(self):
        if (self.op is None) == (self.layer is None):
            raise ValueError("a step has either op or layer")
        return self


class LossSection(Section):
    label_smoothing: Rate = 0.0
    l2: NonNegative = 0.0  # times the sum of squares, no half
    # Weights: kernels and BN gamma. All: biases and beta too; then l2 = w / 2 is the weight_decay w
    # of PyTorch's SGD.
    l2_of: Literal["weights", "all"] = "weights"


class OptimizerSection(OpenSection):
    name: str
    learning_rate: PositiveFloat
    weight_decay: NonNegative = 0.0  # decoupled; spares biases and norms
    clip_norm: PositiveFloat | None = None  # of all gradients together, after the reduction


class ScheduleSection(OpenSection):
    name: str = "constant"
    warmup_epochs: NonNegative = 0.0


class TrainSection(Section):
    epochs: Positive
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    seed: Count = 0
    batch_norm: Literal["global", "per_device"] = "global"
    ema: Rate = 0.0  # momentum of the weights' moving average; 0: none
    accumulate_steps: Positive = 1  # parts into which a batch is split to save memory
    xla: Literal["auto", "on", "off"] = "auto"
    early_stopping: Count = 0  # epochs without a better val_top1; 0: never
    # Which images choose best.keras, plateau and early stopping: auto is the holdout where there is
    # one, else none; "validation" is for recipes of papers that selected on it, and says so.
    select_on: Literal["auto", "validation"] = "auto"
    initial_weights: str | None = None  # a .keras file to start from
    # Besides each epoch's end: "10 min", "500 steps", or "epoch" for no more. Minutes become more
    # where writing would take over 1 % of the time.
    checkpoint_every: Annotated[str, Field(pattern=CHECKPOINT_EVERY)] = "10 min"
    # Where the loss or a weight is not finite: stop, or go back one checkpoint with the learning
    # rate times rollback_factor, at most max_rollbacks times.
    on_nan: Literal["stop", "rollback"] = "stop"
    rollback_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    max_rollbacks: Annotated[int, Field(ge=1, le=100)] = 3


class EvaluationSection(Section):
    """How pictures of any size are shown in evaluation; with ten crops also those of one size."""

    # Of the shorter side, before the centre is cropped; default 256 / 224 of image_size.
    resize: Annotated[int, Field(ge=8, le=2048)] | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = (
        "bilinear"
    )
    # Of a finished model: the centre, the corners and their mirror images, answers averaged.
    ten_crop: bool = False


class ResultSection(Section):
    """A published or measured result. Errors and accuracies in percent."""

    top1: float | None = None
    top5: float | None = None
    top1_error: float | None = None
    top5_error: float | None = None
    seconds: float | None = None
    note: str | None = None
    source: str | None = None

    @property
    def accuracy(self):
        """Top-1 in percent, from whichever of accuracy and error is given."""
        if self.top1 is None and self.top1_error is not None:
            return round(100 - self.top1_error, 2)
        return self.top1


def is_folder_name(name):
    """Whether a run's folder can have this name."""
    fits = name.isprintable() and 0 < len(name.encode()) <= 100
    return fits and not name.startswith((".", "-", " ")) and not set(name) & set("/\\")


def _folder_name(name):
    if not is_folder_name(name):
        raise PydanticCustomError(
            "folder_name",
            "a folder's name: at most 100 printable characters, no slash, no dot or dash in front",
        )
    return name


class Recipe(Section):
    """A validated recipe. Attributes are the tables of the TOML file."""

    name: Annotated[str, AfterValidator(_folder_name)]  # of its run folder too
    model: ModelSection
    data: DataSection
    augment: list[AugmentSection] = []
    loss: LossSection = LossSection()
    optimizer: OptimizerSection
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection
    evaluation: EvaluationSection = EvaluationSection()
    reference: ResultSection | None = None
    measured: dict[str, ResultSection] = {}

    def check(self):
        """Refuse what no single field shows: unknown names and settings that exclude each other."""
        row = find_model(self.model.name)
        row.check_options(self.model.name, self.model.options)
        dataset = find_dataset(self.data.dataset)
        for section in self.augment:
            if section.layer:
                check_layer_name(section.layer)
            else:
                check_augment(section.op, section.options)
        for section in self.augment[:-1]:
            if section.op and OPS[section.op].mixes:
                raise UserError(
                    f'augment.op "{section.op}" mixes labels too and must be the last step; '
                    f"received {self.augment[-1].op or self.augment[-1].layer} after it"
                )
        part = self.data.batch_size // self.train.accumulate_steps
        if part < 2 and self.augment and self.augment[-1].op and OPS[self.augment[-1].op].mixes:
            raise UserError(
                f'augment.op "{self.augment[-1].op}" mixes the images of a batch, or of each part '
                "of it with train.accumulate_steps: 2 are needed; received 1"
            )
        self._check_sizes(dataset)
        if self.data.classes and self.data.classes > (dataset.num_classes or math.inf):
            raise UserError(
                f"data.classes must be at most {dataset.num_classes}, the classes of "
                f"{dataset.name}; received {self.data.classes}"
            )
        if self.data.holdout and self.train.select_on == "validation":
            raise UserError(
                'train.select_on = "validation" leaves data.holdout unused; '
                f"received both, with data.holdout = {self.data.holdout}"
            )
        if self.data.batch_size % self.train.accumulate_steps:
            raise UserError(
                "train.accumulate_steps must divide data.batch_size; "
                f"received {self.train.accumulate_steps} and {self.data.batch_size}"
            )
        if self.selection == "none" and (self.train.early_stopping or self._is_plateau):
            raise UserError(
                "train.early_stopping and the plateau schedule choose by validation: set "
                "data.holdout to a number of training images kept aside for it; received 0"
            )

    def _check_sizes(self, dataset):
        """Refuse sizes that the data set has already, or lacks."""
        size, evaluation = self.data.image_size, self.evaluation
        if dataset.image_size:
            if size:
                raise UserError(
                    f"data.image_size is for sets of pictures of any size; those of {dataset.name} "
                    f"have {dataset.image_size}: leave it out; received {size}"
                )
            changed = evaluation.resize or evaluation.interpolation != "bilinear"
            if changed and not evaluation.ten_crop:
                raise UserError(
                    "evaluation.resize and evaluation.interpolation have no use for "
                    f"{dataset.name}, whose pictures have one size, but with "
                    "evaluation.ten_crop = true"
                )
        elif not size:
            raise UserError(
                f"data.image_size is missing: pictures of {dataset.name} have any size; set the "
                "pixels per side that the model is to be shown, such as 224"
            )
        if self.data.in_memory != "auto" and not dataset.image_size:
            raise UserError(
                f"data.in_memory has no use for {dataset.name}, which is read from its files: "
                f'leave it out; received "{self.data.in_memory}"'
            )
        if self.model.normalization == "mean_image" and not dataset.image_size:
            raise UserError(
                'model.normalization = "mean_image" needs pictures of one size; for '
                f'{dataset.name} use "dataset", the mean and spread of each channel'
            )
        shown = size or dataset.image_size
        factor = self.model.options.get("factor", 1) if self.model.name == "spectral" else 1
        if shown % factor:
            raise UserError(
                f"model.factor must divide the {shown} pixels per side of the pictures; received "
                f"{factor}"
            )
        if evaluation.resize and evaluation.resize < shown:
            raise UserError(
                f"evaluation.resize must be at least the {shown} pixels that are cropped; "
                f"received {evaluation.resize}"
            )

    @property
    def image_size(self):
        """Pixels per side that the model is shown."""
        return self.data.image_size or find_dataset(self.data.dataset).image_size

    @property
    def view(self):
        """How the data set's pictures are shown in evaluation, a `pictures.View` or None.

        None: as they are stored.
        """
        from keras_imnet64.data.pictures import View, default_resize

        evaluation, size = self.evaluation, self.image_size
        if not self.data.image_size and not evaluation.ten_crop:
            return None
        resize = evaluation.resize or default_resize(size)
        return View(size, evaluation.interpolation, resize, evaluation.ten_crop)

    @property
    def selection(self):
        """Which images choose the best epoch: "holdout", "validation" or "none"."""
        if self.train.select_on == "validation":
            return "validation"
        return "holdout" if self.data.holdout else "none"

    @property
    def _is_plateau(self):
        return self.schedule.name == "plateau"

    def to_toml(self):
        """The resolved recipe as TOML text: `fit --recipe` on it repeats the run."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True))


def recipes_dir():
    """Inside the wheel beside the package's files, in a checkout beside the package."""
    package = Path(__file__).parent
    inside, beside = package / "recipes", package.parent / "recipes"
    return inside if inside.is_dir() else beside


def list_recipes():
    """Names of the shipped recipes."""
    return sorted(path.stem for path in recipes_dir().glob("*.toml"))


def load_recipe(name_or_path, overrides=()):
    """Read, override and check a recipe.

    Args:
        name_or_path: a shipped recipe's name, or a path to a TOML file.
        overrides: lines of TOML such as "optimizer.learning_rate = 0.05".

    Returns:
        Recipe

    Raises:
        UserError: one sentence naming the recipe, the key, what was received and what would work.
    """
    path = find_recipe(name_or_path)
    try:
        content = parse_toml(decode_text(read_small(path, FILE_BYTES)))
    except (OSError, ValueError) as error:
        raise UserError(f"recipe {path} cannot be read as TOML: {reason(error)}") from error
    changes = {}
    for line in overrides:
        merge(changes, parse_override(line))
    override(content, changes)
    content.setdefault("name", path.stem)
    return check_recipe(content)


def parse_toml(text):
    """Nested plain values; ValueError for what is no TOML, or too deep to be handled."""
    if DEEP_KEY.search(text):
        raise ValueError(f"a key has more than {MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_recipe(content):
    """A Recipe from nested plain values, or UserError."""
    name = content.get("name")
    try:
        _check_values(content)
        recipe = Recipe.model_validate(content)
        recipe.check()
    except ValidationError as error:
        raise UserError(f"recipe {name}: {_sentence(_first(error))}") from error
    except UserError as error:
        raise UserError(f"recipe {name}: {error}") from error
    return recipe


def check_model(table):
    """A ModelSection from the plain values of a recipe's table `model`, or UserError."""
    try:
        _check_values({"model": table})
        section = ModelSection.model_validate(table)
    except ValidationError as error:
        first = _first(error)
        raise UserError(_sentence(first | {"loc": ("model", *first["loc"])})) from error
    find_model(section.name).check_options(section.name, section.options)
    return section


def _check_values(content):
    """Refuse values that no key of a recipe takes, wherever they are."""
    if depth(content) > MOST_PARTS:
        raise UserError(f"it must have at most {MOST_PARTS} tables within each other")
    waiting = [("", content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{where}.{key}".lstrip("."), inner) for key, inner in value.items()]
            value = "".join(map(str, value))
        elif isinstance(value, list):
            waiting += [(where, inner) for inner in value]
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{where} must be a number of at most 63 bits; received a longer one")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where} must be a finite number; received {value}")
        if isinstance(value, str) and not _is_text(value):
            raise UserError(f"{where} must be text in UTF-8 without NUL; received {value!r}")
        if not isinstance(value, str | int | float | list | None):
            kind = type(value).__name__
            raise UserError(f"{where} must be a number, text, list or table; received a {kind}")


def _is_text(value):
    try:
        return "\0" not in value.encode().decode()
    except UnicodeEncodeError:  # half a character, from a command line that is not UTF-8
        return False


def find_recipe(name_or_path):
    """The file of a shipped recipe's name or a path."""
    text = str(name_or_path)
    if text in list_recipes():
        return recipes_dir() / f"{text}.toml"
    path = expand(text)
    if path.suffix == ".toml" or "/" in text:
        if os.path.exists(path) and not os.path.isdir(path):
            return path
        raise UserError(f"{path} is not a file; --recipe takes a name or the path of a TOML file")
    raise UserError(f'recipe "{text}" is not known; {nearest(text, list_recipes())}')


def parse_override(line):
    """{"optimizer": {"learning_rate": 0.05}} from "optimizer.learning_rate=0.05"."""
    key, equals, value = line.partition("=")
    try:
        if not equals or KEY_FORBIDS & set(key) or "\n" in line:
            raise ValueError
        return parse_toml(f"{key.strip()} = {value.strip()}")
    except ValueError:
        raise UserError(
            f"--set takes key=value in TOML, such as optimizer.learning_rate=0.05 "
            f"or 'model.name=\"wide_resnet\"'; received {line!r}"
        ) from None


def override(content, changes):
    """Put `changes` into `content`; another model, optimizer or schedule drops the old options."""
    for table, section in NAMED.items():
        old, new = content.get(table), changes.get(table)
        both = isinstance(old, dict) and isinstance(new, dict)
        if both and new.get("name", old.get("name")) != old.get("name"):
            content[table] = {k: v for k, v in old.items() if k in section.model_fields}
    merge(content, changes)


def merge(content, changes):
    """Put `changes` into `content`, table by table; anything but a table is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            merge(content[key], value)
        else:
            content[key] = value


def difference(old, new):
    """["train.epochs: 40 -> 2", ...] between two recipes, in what decides how a run goes on."""
    old, new = decisions(old), decisions(new)
    keys = dict.fromkeys([*old, *new])
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def decisions(recipe):
    """{dotted key: value} as JSON has them, without results and what may change in mid-run."""
    flat = _flatten(recipe.model_dump(exclude={"reference", "measured", "name"}))
    if flat["train.initial_weights"]:  # which a run has taken, wherever the file is now
        flat["train.initial_weights"] = "a file"
    decided = {key: value for key, value in flat.items() if key not in MAY_CHANGE}
    return json.loads(json.dumps(decided, default=str))


def _flatten(table, prefix=""):
    flat = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


MAY_CHANGE = {  # in a run that goes on
    "data.in_memory",
    "train.checkpoint_every",
    "train.on_nan",
    "train.rollback_factor",
    "train.max_rollbacks",
}
NAMED = {"model": ModelSection, "optimizer": OptimizerSection, "schedule": ScheduleSection}
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "too_short": "three numbers",
    "too_long": "three numbers",
}


def _first(error):
    """The first of pydantic's errors; of a table, not that it is none of some words."""
    return next(
        (e for e in error.errors() if (e["type"], type(e["input"])) != ("literal_error", dict)),
        error.errors()[0],
    )


def _sentence(error: dict[str, Any]):
    """One of pydantic's errors as a sentence of ours."""
    location = [part for part in error["loc"] if not _is_of_a_union(part)] or error["loc"]
    where, received = ".".join(str(part) for part in location), error["input"]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is not a known key; {nearest(location[-1], _keys_at(location))}"
    if kind == "literal_error":
        expected = f"one of {context['expected']}"
    elif kind == "value_error":
        return f"{where}: {context['error']}; received {_toml_value(received)}"
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        expected = error["msg"].removeprefix("Input should be ")
    else:
        expected = EXPECTED.get(kind, error["msg"].removeprefix("Input should be "))
    return f"{where} must be {expected}; received {_toml_value(received)}"


def _is_of_a_union(part):
    """Whether pydantic put this part there to say which of several types it tried."""
    return isinstance(part, str) and ("[" in part or part == "ChannelNormalization")


def _keys_at(location):
    """The keys that are known in the table where an unknown one was found."""
    section = Recipe
    for part in location[:-1]:
        if part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section.model_fields


def _section_in(annotation):
    """The Section among the types of an annotation such as `Section | None`; None if none is."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section), None)


def _toml_value(value):
    return f'"{value}"' if isinstance(value, str) else repr(value)
