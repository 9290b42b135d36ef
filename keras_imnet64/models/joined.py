"""Several networks as one: each sees the same pixels, and the logits are their weighted sum."""

import keras
from keras import layers, ops

from keras_imnet64.models.parts import pixels


def join(members, weights, name="ensemble"):
    """One functional model of several, with fresh weights; `fill_members` gives it theirs.

    Args:
        members: {name: keras.Model}, pixels [B, H, W, 3] -> logits [B, K], all of the same sizes.
            Each is copied into a layer of its name, and its own layers get that name in front, so
            that no two weights share a path.
        weights: as many numbers; 1 / N each for the mean.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].
    """
    inputs = pixels(next(iter(members.values())).input.shape[1])
    terms = []
    for (member, model), weight in zip(members.items(), weights, strict=True):
        scale = layers.Rescaling(float(weight), dtype="float32", name=f"{member}_weight")
        terms.append(scale(copied(model, member)(inputs)))
    return keras.Model(inputs, layers.Add(dtype="float32", name="logits")(terms), name=name)


def copied(model, name):
    """The model under another name, which its layers have in front of theirs."""

    def renamed(layer):
        config = layer.get_config()
        config["name"] = f"{name}_{layer.name}"
        return type(layer).from_config(config)

    twin = keras.models.clone_model(model, clone_function=renamed)
    return keras.Model(twin.input, twin.output, name=name)


def fill_members(joined, members):
    """Give what `join` made the weights of its members."""
    for name, model in members.items():
        for target, source in zip(joined.get_layer(name).variables, model.variables, strict=True):
            target.assign(ops.convert_to_numpy(source))
