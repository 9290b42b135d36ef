"""From weights of torchvision or timm to a model file of ours, every tensor accounted for.

See `convert.namings` for which of their tensors is which of our variables, `convert.tensor_files`
for how their files are read, `models.prefixes` for where in a file the network lies. Class ids are
never guessed: the caller says whose the rows are.
"""

import hashlib

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.convert.namings import (
    AS_PUBLISHED,
    check_fit,
    fill_from,
    landmarks,
    naming_of,
    namings_of,
    num_classes_of,
    tensors_of,
)
from keras_imnet64.convert.prefixes import find_network
from keras_imnet64.convert.tensor_files import read_tensors
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import check_output_file, expand, refuse_existing
from keras_imnet64.core.work_folders import publish, report_failed_write, work_folder
from keras_imnet64.data.sources.archives import imagenet_class_names, imagenet_wnids
from keras_imnet64.models import MOST_PIXELS, build_model, check_whole, find_model
from keras_imnet64.models.ship import ship
from keras_imnet64.recipe.loading import check_model, merge, parse_override

CLASSES = {  # the 1,000 class ids in the order of the file that is written
    "imagenet": lambda: sorted(imagenet_wnids()),  # as torchvision and timm have their rows
    "imagenet64": imagenet_wnids,
}
# How their images were made small; for predict. A file of weights does not say.
RESIZE_FILTERS = {"davit": "bicubic"}
RESIZE_FILTER = "bilinear"


@keras_defaults()
def convert(
    name,
    weights,
    *,
    image_size,
    out,
    classes=None,
    options=None,
    normalization="imagenet",
    prefix=None,
):
    """Write a `.keras` file with the weights of a torchvision or timm checkpoint.

    The network is the published one unless options say otherwise. Residual networks and DaViTs are
    rebuilt at any image size; AlexNet and VGG at those whose last map their dense layers take.

    Args:
        name: a network of the resnet, davit, alexnet and vgg families.
        weights: a file of safetensors, or of torch.save where torch is installed, be it the
            checkpoint of a training program.
        image_size: pixels per side.
        out: the `.keras` file, which must not exist.
        classes: whose the file's 1,000 rows are, which must be in sorted order of class ids:
            "imagenet" keeps that order, "imagenet64" brings them into that of ImageNet64, so that
            logit i is that of class i there. None: the file written names no classes.
        options: those of the network, see `list_models` and `build_model`.
        normalization: "imagenet" or {"mean": [3 numbers], "std": [3 numbers]}, see `build_model`.
        prefix: what the names of the network's tensors begin with, such as "student.", for a file
            of several networks. None: the only one, or the averaged one of two.

    Returns:
        dict, fit for JSON: model, image_size, num_classes, parameters (trainable), tensors (taken),
        classes, normalization, out; prefix of the network in the file, averaged (whether it is
        that of averaged weights), other_networks (prefixes of those that were not taken), left_out
        (names of tensors that belong to no network).

    Raises:
        UserError: the file is not the weights of this network, or cannot be written there.
        RunFailed: the disk is full; nothing is left.
    """
    network = network_of(name, options or {}, normalization)
    check_whole("--image-size", image_size, 1, MOST_PIXELS)
    weights, out = expand(weights), expand(out)
    check_target(out)
    order = class_order(classes)
    found = find_network(read_tensors(weights), *landmarks(name), prefix, weights)
    arrays, who = found.tensors, described(weights, found)
    naming = naming_of(name, arrays)
    num_classes = num_classes_of(arrays, naming, who)
    if order and num_classes != len(order):
        raise UserError(
            f'--classes "{classes}" is for the {len(order):,} classes of ImageNet; {weights} has '
            f"{num_classes:,}: leave it out"
        )
    model = filled(name, network, image_size, num_classes, arrays, naming, who)
    if order:
        take_order(model.get_layer("logits"), order)
    info = labels(order) | {
        "image_size": image_size,
        "resize_filter": RESIZE_FILTERS.get(find_model(name).module, RESIZE_FILTER),
        "converted_from": {
            "file": weights.name,
            "sha256": sha256_of(weights),
            "prefix": found.prefix,
            "model": name,
            "model_options": {k: v for k, v in network.items() if k != "normalization"},
        },
    }
    write(model, out, info)
    from keras_imnet64.models.macs import count_parameters

    return {
        "model": name,
        "image_size": image_size,
        "num_classes": num_classes,
        "parameters": count_parameters(model),
        "tensors": len(tensors_of(model, naming)),
        "classes": classes,
        "normalization": network["normalization"],
        "out": str(out),
        "prefix": found.prefix,
        "averaged": found.is_averaged,
        "other_networks": found.others,
        "left_out": found.left_out,
    }


def described(weights, found):
    """What messages call the network of a file."""
    return f'{weights} (under "{found.prefix}")' if found.prefix or found.others else weights


def filled(name, network, image_size, num_classes, arrays, naming, who):
    """The network with the weights of `arrays`; it takes memory only once all shapes fit."""
    from keras_imnet64.models.macs import without_weights

    sizes = {"image_size": image_size, "num_classes": num_classes}
    with without_weights():
        outline = build_model(name, **sizes, **network)
        check_fit(outline, tensors_of(outline, naming), arrays, who)
    model = build_model(name, **sizes, **network)
    fill_from(model, arrays, naming, who)
    return model


# ------------------------------------------------------------------------------- what was asked for


def settings_of(lines):
    """{"options": {...}, "normalization": ...} of lines of TOML such as 'stem="small"'.

    "model.stem", as `fit --set` has it, is taken as well.
    """
    changes = {}
    for line in lines:
        merge(changes, parse_override(line))
    if isinstance(changes.get("model"), dict):
        merge(changes, changes.pop("model"))
    return {"normalization": changes.pop("normalization", "imagenet"), "options": changes}


def network_of(name, options, normalization):
    """Normalization and options for `build_model`: as published but for what is given."""
    row = find_model(name)
    namings_of(name)
    row.check_options(name, options)
    section = check_model({**options, "normalization": normalization, "name": name})
    if section.normalization in ("mean_image", "dataset"):
        raise UserError(
            f'normalization "{normalization}" is measured on a data set, and there is none here; '
            '"imagenet" works, or {mean = [...], std = [...]} with three numbers each'
        )
    if section.normalization != "imagenet":
        normalization = section.normalization.model_dump()
    return AS_PUBLISHED.get(row.module, {}) | options | {"normalization": normalization}


def check_target(out):
    if out.suffix != ".keras":
        raise UserError(f"--out must end in .keras; received {out}")
    refuse_existing(out)
    check_output_file(out, ".keras")


# ------------------------------------------------------------------------------------------ classes


def class_order(classes):
    """Class ids in the order of the logits; None where nothing is said about them."""
    if classes is None:
        return None
    if classes not in tuple(CLASSES):
        raise UserError(f'--classes must be "imagenet" or "imagenet64"; received {classes!r}')
    return CLASSES[classes]()


def take_order(head, wnids):
    """Bring the logits of a dense layer from sorted order of class ids into that of `wnids`."""
    from keras import ops

    position = {wnid: row for row, wnid in enumerate(sorted(wnids))}
    rows = [position[wnid] for wnid in wnids]  # logit i is what logit rows[i] was
    for variable in head.weights:  # [C, K] and [K]
        variable.assign(ops.convert_to_numpy(variable)[..., rows])


def labels(order):
    """What a model file says about its classes; nothing where nothing is known."""
    if order is None:
        return {}
    names = dict(zip(imagenet_wnids(), imagenet_class_names(), strict=True))
    return {"wnids": order, "class_names": [names[wnid] for wnid in order]}


# -------------------------------------------------------------------------------------------- files


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(model, out, info):
    """Writes the file aside, and gives it its name if nothing has that name by then."""
    with report_failed_write(f"writing {out}", out), work_folder(out, "converting") as work:
        ship(model, work / out.name, info)
        publish(work / out.name, out, replace=False)
