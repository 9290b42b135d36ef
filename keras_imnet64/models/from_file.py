"""Builds a network from a `.keras` file: its layers and weights, and a head for other classes.

The head is the dense layer that gives the logits, whatever its name in the file; in the network it
is called `logits`. All other layers keep their names, and with them the paths of their weights.
"""

from collections.abc import Sequence
from pathlib import Path

import keras

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import sha256_of
from keras_imnet64.core.paths import expand
from keras_imnet64.models.contract import HEAD, classifier_shape, that_computes, with_logits
from keras_imnet64.models.info import head_problem, read_model_info
from keras_imnet64.models.init import draw_weights, is_drawn
from keras_imnet64.models.keras_private import producer
from keras_imnet64.models.load import check_loads_anywhere, load_model
from keras_imnet64.models.options import FileOptions
from keras_imnet64.models.paths import SEED_STATE, by_path
from keras_imnet64.models.ship import copy_whole, is_copied_whole, use_assigned_statistics

USUAL_INITIALIZERS = {"kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}


def build_from_file(
    file: FileOptions, *, image_size: int, num_classes: int, dtype: str = "float32"
) -> keras.Model:
    """Returns the network of a file with its weights.

    A head of another number of logits has Keras' own initial weights; `replace_head` draws those
    of a run.

    Args:
        image_size: pixels per side of the images.
        num_classes: K, the number of logits.
        dtype: name of a Keras dtype policy, for the layers that have it in a network of the table:
            normalisation, layers that never train and the head are float32 under every policy.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the file cannot be read, is another file than `sha256` says, or holds no
            functional classifier of such images that ends in a dense layer.
    """
    source = read_file(file)
    _check_input(source, file.path, image_size)
    model = with_logits(source)
    head = _head_of(model, file.path)
    try:
        with keras_defaults():
            keras.config.set_dtype_policy(dtype)
            network = _copy(model, head, num_classes, dtype)
        _fill(network, model, head)
    except Exception as error:  # layers of other authors raise any type
        raise UserError(f"model.path: {file.path} cannot be copied: {reason(error)}") from error
    check_loads_anywhere(network, f"model.path: {file.path}")
    return network


def find_file(file: FileOptions) -> Path:
    """Returns the path of a model file that is there."""
    path = expand(file.path)
    if (path / "model.keras").is_file():
        raise UserError(
            f"model.path: {file.path} is a run folder; name the model file in it, such as "
            f"{path / 'model.keras'}"
        )
    if not path.is_file():
        raise UserError(f"model.path: {file.path} is not a file; a .keras file is needed")
    return path


def read_file(file: FileOptions) -> keras.Model:
    """Loads the model of a file."""
    path = find_file(file)
    try:
        if file.sha256 is not None and file.sha256 != sha256_of(path):
            raise UserError(
                f"model.path: {file.path} is not the file that the recipe was made for, whose "
                f"SHA-256 is {file.sha256[:12]}...: restore that file, or remove model.sha256"
            )
        return load_model(path)
    except OSError as error:
        raise UserError(f"model.path: {file.path} cannot be read: {reason(error)}") from error
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith("model.path") else f"model.path: {text}") from None


def replace_head(network: keras.Model, path: str, wnids: Sequence[str], seed: int) -> list[str]:
    """Draws the head of a network anew unless its file names exactly these classes.

    Args:
        network: from `build_from_file`.
        path: of the file.
        wnids: class ids of the network's logits.

    Returns:
        The paths of the variables that are drawn anew, each with the reason.
    """
    theirs = read_model_info(expand(path)).wnids
    if theirs == tuple(wnids):
        return []
    draw_weights(network.get_layer(HEAD), seed)
    return [f"{v.path}: {head_problem(theirs)}" for v in network.get_layer(HEAD).variables]


def _check_input(model: keras.Model, path: str, image_size: int) -> None:
    shape = classifier_shape(model, f"model.path: {path}")
    if (shape.height, shape.width) not in [(image_size, image_size), (None, None)]:
        raise UserError(
            f"model.path: {path} takes images of {shape.height} x {shape.width}, and those of the "
            f"recipe have {image_size} pixels per side: set data.image_size = {shape.height}, or "
            "choose a data set of images of that size"
        )


def _head_of(model: keras.Model, path: str) -> keras.Layer:
    """Returns the dense layer that gives the logits.

    Raises:
        UserError: another layer gives them, or another one is called `logits`.
    """
    last = that_computes(producer(model.outputs[0]))
    if not isinstance(last, keras.layers.Dense):
        raise UserError(
            f'model.path: {path} ends in the layer "{last.name}" ({type(last).__name__}); a head '
            "for other classes can replace a dense layer alone, which must give the logits"
        )
    if last.name != HEAD and any(layer.name == HEAD for layer in model.layers):
        raise UserError(
            f'model.path: {path} has a layer "{HEAD}" and ends in another one, "{last.name}": '
            f'save it with "{HEAD}" as the name of its last layer alone'
        )
    return last


def _copy(model: keras.Model, head: keras.Layer, num_classes: int, dtype: str) -> keras.Model:
    """Returns the network with fresh weights, and with a head of `num_classes` logits."""

    def changed(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Model):
            if is_copied_whole(layer):
                return copy_whole(layer, dtype)
            return _copy(layer, head, num_classes, dtype)
        config = layer.get_config()
        if layer is head:
            config |= {"name": HEAD, "units": num_classes, "activation": "linear"}
            for name, usual in USUAL_INITIALIZERS.items():
                if not is_drawn(getattr(layer, name)):
                    config[name] = usual
        if isinstance(layer, keras.Layer) and not isinstance(layer, keras.layers.InputLayer):
            is_float32 = layer is head or _stays_float32(layer)
            config["dtype"] = "float32" if is_float32 else dtype
        return type(layer).from_config(config)

    one = len(model.inputs) == len(model.outputs) == 1  # then `model(x)` is a tensor, not a list
    ends = (model.inputs[0], model.outputs[0]) if one else (model.inputs, model.outputs)
    functional = keras.Model(*ends, name=model.name)
    return keras.models.clone_model(functional, clone_function=changed)


def _fill(network: keras.Model, model: keras.Model, head: keras.Layer) -> None:
    """Copies the weights of the file's model, but not those of a head for another number."""
    weights = by_path(model)
    for path, variable in by_path(network).items():
        layer, _, name = path.rpartition("/")
        found = weights[f"{head.name}/{name}" if layer == HEAD else path]
        if variable.name != SEED_STATE and (layer != HEAD or found.shape == variable.shape):
            variable.assign(keras.ops.convert_to_numpy(found))
    use_assigned_statistics(network)


def _stays_float32(layer: keras.Layer) -> bool:
    """Whether a layer is float32 under every policy, as in the networks of the table."""
    prepares_pixels = (keras.layers.Normalization, keras.layers.Rescaling)
    never_trains = bool(layer.weights) and not layer.trainable
    return isinstance(layer, prepares_pixels) or never_trains
