"""Converts weights of torchvision or timm to a model file, and accounts for every tensor.

`tensor_files` reads weight files, `prefixes` finds the network in a file, and `namings` maps its
tensors to Keras variables. Class ids are never guessed: the caller states the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.convert.namings import (
    Arrays,
    Naming,
    assign_weights,
    check_fit,
    choose_naming,
    family_of,
    find_namings,
    landmarks_of,
    num_classes_of,
    tensors_of,
)
from keras_imnet64.convert.prefixes import FoundNetwork, find_network
from keras_imnet64.convert.tensor_files import read_tensors
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import sha256_of
from keras_imnet64.core.paths import check_output_file, expand, refuse_existing
from keras_imnet64.core.types import Json, JsonObject, Options, StrPath
from keras_imnet64.core.work_folders import publish, report_failed_write, work_folder
from keras_imnet64.data.images.views import check_filter
from keras_imnet64.data.sources.archives import imagenet_class_names, imagenet_wnids
from keras_imnet64.models import build_model, check_whole
from keras_imnet64.models.options import ChannelNormalization
from keras_imnet64.models.ship import ship
from keras_imnet64.recipe.loading import check_model, merge, parse_override
from keras_imnet64.records import MAX_IMAGE_SIZE, ConvertedFrom, ModelInfo

if TYPE_CHECKING:
    import keras

CLASS_ORDERS: dict[str, Callable[[], list[str]]] = {  # the 1,000 class ids in the order of logits
    "imagenet": lambda: sorted(imagenet_wnids()),  # the order of rows in torchvision and timm
    "imagenet64": imagenet_wnids,
}


@keras_defaults()
def convert(
    name: str,
    weights: StrPath,
    *,
    image_size: int,
    out: StrPath,
    classes: str | None = None,
    options: Options | None = None,
    normalization: Json = "imagenet",
    prefix: str | None = None,
    resize: int | None = None,
    resize_filter: str | None = None,
) -> JsonObject:
    """Writes a `.keras` file with the weights of a torchvision or timm checkpoint.

    The network is the published one unless `options` change it. Residual networks and DaViTs can be
    built at any image size; AlexNet and VGG only where their dense layers fit the last map.

    Args:
        name: a network of the resnet, davit, alexnet and vgg families.
        weights: a file of safetensors, or of torch.save where torch is installed; it may be a
            checkpoint of a training program.
        image_size: pixels per side.
        out: the `.keras` file, which must not exist.
        classes: the order of the logits in `out`, for a classifier whose 1,000 rows are in sorted
            order of ImageNet's class ids. "imagenet" keeps that order; "imagenet64" reorders the
            rows, so that logit i is that of class i of ImageNet64. None: `out` states no classes.
        options: options of the network, see `list_models` and `build_model`.
        normalization: "imagenet" or {"mean": [3 numbers], "std": [3 numbers]}, see `build_model`.
        prefix: the beginning of the names of the network's tensors, such as "student.", for a file
            of several networks. None: the only network, or the averaged one of two.
        resize: pixels of the shorter side before the centre is cropped, as in torchvision; None
            resizes the whole image to `image_size`.
        resize_filter: a key of `views.FILTERS`; None: that of the family.

    Returns:
        dict, fit for JSON: model, image_size, num_classes, parameters (trainable), tensors (number
        of those converted), classes, normalization, out; prefix of the network in the file,
        averaged (whether its weights are averages), other_networks (prefixes of those that were not
        converted), left_out (names of tensors that belong to no network).

    Raises:
        UserError: the file does not have the weights of this network, or `out` cannot be written.
        RunFailed: the disk is full; nothing is left.
    """
    model_options = options_of(name, options or {}, normalization)
    check_whole("--image-size", image_size, 1, MAX_IMAGE_SIZE)
    if resize is not None:
        check_whole("--resize", resize, image_size, MAX_IMAGE_SIZE)
    if resize_filter is not None:
        check_filter(resize_filter)
    weights, out = expand(weights), expand(out)
    check_target(out)
    class_ids = ordered_class_ids(classes)
    with Activity(f"reading {weights}"):
        found = find_network(read_tensors(weights), landmarks_of(name), prefix, weights)
    arrays, source = found.tensors, name_source(weights, found)
    naming = choose_naming(name, arrays)
    num_classes = num_classes_of(arrays, naming, source)
    if class_ids and num_classes != len(class_ids):
        raise UserError(
            f'--classes "{classes}" is for the {len(class_ids):,} classes of ImageNet; {weights} '
            f"has {num_classes:,}: leave it out"
        )
    sizes = {"image_size": image_size, "num_classes": num_classes}
    with Activity("building the network"):
        model = build_with_weights(name, {**sizes, **model_options}, arrays, naming, source)
    if class_ids:
        reorder_logits(model.get_layer("logits"), class_ids)
    info = ModelInfo(
        wnids=class_ids,
        class_names=class_ids and class_names_of(class_ids),
        image_size=image_size,
        resize_filter=resize_filter or family_of(name).resize_filter,
        resize=resize,
        converted_from=ConvertedFrom(
            file=weights.name,
            sha256=sha256_of(weights),
            prefix=found.prefix,
            model=name,
            model_options={k: v for k, v in model_options.items() if k != "normalization"},
        ),
    )
    with Activity(f"writing {out}"):
        write(model, out, info)
    from keras_imnet64.models.macs import count_parameters

    return {
        "model": name,
        "image_size": image_size,
        "num_classes": num_classes,
        "parameters": count_parameters(model),
        "tensors": len(tensors_of(model, naming)),
        "classes": classes,
        "normalization": model_options["normalization"],
        "out": str(out),
        "prefix": found.prefix,
        "averaged": found.is_averaged,
        "other_networks": found.other_prefixes,
        "left_out": found.left_out,
    }


def name_source(weights: Path, found: FoundNetwork) -> str:
    """Returns the name of the network of a file in messages."""
    has_prefix = found.prefix or found.other_prefixes
    return f'{weights} (under "{found.prefix}")' if has_prefix else str(weights)


def build_with_weights(
    name: str, arguments: Options, arrays: Arrays, naming: Naming, source: str
) -> keras.Model:
    """Builds the network and assigns its weights; allocates memory only after all shapes fit.

    Args:
        arguments: those of `build_model`.
    """
    from keras_imnet64.models.keras_private import without_weights

    with without_weights():
        outline = build_model(name, **arguments)
        check_fit(outline, tensors_of(outline, naming), arrays, source)
    model = build_model(name, **arguments)
    assign_weights(model, arrays, naming, source)
    return model


# ----------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class ModelSettings:
    """Options of a network and its normalization, as arguments of `convert`."""

    options: Options
    normalization: Json


def parse_settings(lines: Sequence[str]) -> ModelSettings:
    """Parses lines of TOML such as 'stem="small"', or 'model.stem="small"' as for `fit --set`."""
    changes: JsonObject = {}
    for line in lines:
        merge(changes, parse_override(line, of_network=True))
    if isinstance(changes.get("model"), dict):
        merge(changes, changes.pop("model"))
    return ModelSettings(normalization=changes.pop("normalization", "imagenet"), options=changes)


def options_of(name: str, options: Options, normalization: Json) -> Options:
    """Returns the published options of a network, updated with `options`, and its normalization.

    Raises:
        UserError: neither library has the network, or an option is wrong.
    """
    find_namings(name)
    section = check_model(name, {**options, "normalization": normalization})
    for option in sorted(options.keys() & {"init", "whitening"}):
        raise UserError(
            f"model.{option} is for networks that are trained here, and published ones come with "
            f"their weights: remove it; received {options[option]!r}"
        )
    if isinstance(section.normalization, ChannelNormalization):
        normalization = section.normalization.model_dump()
    elif section.normalization != "imagenet":
        raise UserError(
            f'normalization "{normalization}" is measured on a data set, and there is none here; '
            'use "imagenet" or {mean = [...], std = [...]} with three numbers each'
        )
    return {**family_of(name).options, **options, "normalization": normalization}


def check_target(out: Path) -> None:
    if out.suffix != ".keras":
        raise UserError(f"--out must end in .keras; received {out}")
    refuse_existing(out)
    check_output_file(out, ".keras")


# ------------------------------------------------------------------------------------------ classes


def ordered_class_ids(classes: str | None) -> tuple[str, ...] | None:
    """Returns the class ids in the order of the logits, or None where the classes are unknown."""
    if classes is None:
        return None
    if classes not in tuple(CLASS_ORDERS):
        raise UserError(f'--classes must be "imagenet" or "imagenet64"; received {classes!r}')
    return tuple(CLASS_ORDERS[classes]())


def reorder_logits(head: keras.layers.Dense, class_ids: Sequence[str]) -> None:
    """Reorders the logits of a layer from sorted order of class ids to the order of `class_ids`."""
    from keras import ops

    position = {class_id: row for row, class_id in enumerate(sorted(class_ids))}
    rows = [position[class_id] for class_id in class_ids]  # logit i was logit rows[i]
    for variable in head.weights:  # [C, K] and [K]
        variable.assign(ops.convert_to_numpy(variable)[..., rows])


def class_names_of(class_ids: Sequence[str]) -> tuple[str, ...]:
    names = dict(zip(imagenet_wnids(), imagenet_class_names(), strict=True))
    return tuple(names[class_id] for class_id in class_ids)


# -------------------------------------------------------------------------------------------- files


def write(model: keras.Model, out: Path, info: ModelInfo) -> None:
    """Writes a work file, and renames it to `out` unless that path exists by then."""
    with report_failed_write(f"writing {out}", out), work_folder(out, "converting") as work:
        ship(model, work / out.name, info)
        publish(work / out.name, out, replace=False)
