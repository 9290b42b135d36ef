"""Joins several networks into one, whose logits are a weighted sum of theirs."""

from collections.abc import Mapping, Sequence

import keras
from keras import layers, ops

from keras_imnet64.models.parts import pixels


def join(
    members: Mapping[str, keras.Model], weights: Sequence[float], name: str = "ensemble"
) -> keras.Model:
    """Builds the joined model with fresh weights; `fill_members` copies those of the members.

    Args:
        members: {name: model}, pixels [B, H, W, 3] -> logits [B, K], with equal H, W and K. The
            copy of a member is a layer of this name, and the name is the prefix of its layers'
            names, so that no two weights share a path.
        weights: factors of the members' logits; 1 / N each for the mean of N.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].
    """
    inputs = pixels(next(iter(members.values())).input.shape[1])
    terms = []
    for (member, model), weight in zip(members.items(), weights, strict=True):
        scale = layers.Rescaling(float(weight), dtype="float32", name=f"{member}_weight")
        terms.append(scale(_prefixed_copy(model, member)(inputs)))
    return keras.Model(inputs, layers.Add(dtype="float32", name="logits")(terms), name=name)


def fill_members(model: keras.Model, members: Mapping[str, keras.Model]) -> None:
    """Copies the weights of the members into the model that `join` returned for them."""
    for name, member in members.items():
        for target, source in zip(model.get_layer(name).variables, member.variables, strict=True):
            target.assign(ops.convert_to_numpy(source))


def _prefixed_copy(model: keras.Model, name: str) -> keras.Model:
    """Returns a copy called `name`, whose layers have this name as a prefix."""

    def renamed(layer: keras.Operation) -> keras.Operation:
        config = layer.get_config()
        config["name"] = f"{name}_{layer.name}"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=renamed)
    return keras.Model(copy.input, copy.output, name=name)
