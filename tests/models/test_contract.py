"""Classifiers that end in a softmax, wherever it stands, and what their layers output."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.models.contract import (
    classifier_shape,
    ends_in_softmax,
    gives_probabilities,
    output_of,
    with_logits,
)

PIXELS = np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype("float32")


def network(head):
    """Pixels [B, 6, 6, 3] -> what `head` makes of two features."""
    inputs = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(2, 3)(inputs))
    return keras.Model(inputs, head(x))


def wrapped(model):
    """As networks of keras.applications are used: a layer of another model."""
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, model(layers.Rescaling(1 / 255)(inputs)))


def dense_and(layer):
    return lambda x: layer(layers.Dense(3)(x))


def softmax_and_more(x):
    return layers.Identity()(ops.cast(ops.softmax(x), "float32"))


def mean_of_two(x):
    return layers.Average()([layers.Dense(3, activation="softmax")(x) for _ in range(2)])


def by_division(x):
    powers = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return powers / ops.sum(powers, axis=-1, keepdims=True)


HEADS = {
    "activation of the last layer": lambda x: layers.Dense(3, activation="softmax")(x),
    "layer": dense_and(layers.Softmax()),
    "activation": dense_and(layers.Activation("softmax")),
    "operation": dense_and(ops.softmax),
    "before a cast": lambda x: layers.Activation("linear", dtype="float32")(
        layers.Dense(3, activation="softmax")(x)
    ),
    "before an identity": dense_and(softmax_and_more),
    "before a mean": mean_of_two,
    "before another shape": dense_and(lambda x: layers.Reshape((3,))(ops.softmax(x))),
    "before bounds": dense_and(lambda x: ops.clip(ops.softmax(x), 1e-7, 1)),
    "in a division": dense_and(by_division),
}


@pytest.mark.backend
@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_the_softmax_of_the_logits_is_what_the_model_says(head, is_wrapped):
    keras.utils.set_random_seed(0)
    model = network(HEADS[head])
    model = wrapped(wrapped(model)) if is_wrapped else model
    expected = ops.convert_to_numpy(model(PIXELS))
    assert gives_probabilities(model)
    logits = with_logits(model)(PIXELS)
    np.testing.assert_allclose(ops.convert_to_numpy(ops.softmax(logits)), expected, rtol=1e-5)


@pytest.mark.parametrize("head", [layers.Dense(3, activation="sigmoid"), dense_and(ops.sigmoid)])
def test_probabilities_of_several_classes_at_a_time_are_refused(head):
    with pytest.raises(UserError, match="ends in a sigmoid, which is for images of several"):
        classifier_shape(wrapped(network(head)), "m.keras")


def test_logits_stay_as_they_are():
    for head in (layers.Dense(3), dense_and(ops.relu), dense_and(lambda x: x / 2)):
        model = wrapped(network(head))
        assert not ends_in_softmax(model) and with_logits(model) is model


def test_a_model_within_another_outputs_a_tensor_of_the_other():
    inner = network(lambda x: x)
    inputs = keras.Input((6, 6, 3))
    outer = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    features = keras.Model(outer.inputs[0], output_of(outer, inner))
    expected = ops.convert_to_numpy(inner(PIXELS))
    np.testing.assert_allclose(ops.convert_to_numpy(features(PIXELS)), expected, rtol=1e-6)
