"""Frozen layers: which ones a name stands for, what they compute, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.freeze import freeze_layers, unfrozen
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.ship import float32_copy
from keras_imnet64.training.build import training_model


def toy():
    """A model with layers inside of layers and of a model, and names that nearly fit."""
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 8)),
            layers.Conv2D(8, 1, name="mix"),
            layers.BatchNormalization(name="mix_bn"),
        ],
        name="inner",
    )
    inputs = keras.Input((4, 4, 3), name="pixels")
    x = layers.Conv2D(8, 1, name="stage1_conv")(inputs)
    x = layers.BatchNormalization(name="stage1_bn")(x)
    x = layers.Dropout(0.5, name="stage1_dropout")(x)
    x = layers.Conv2D(8, 1, name="stage10_conv")(x)
    x = inner(x)
    x = layers.Reshape((16, 8), name="tokens")(x)
    x = layers.MultiHeadAttention(2, 4, dropout=0.5, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = layers.Dense(5, name="logits")(x)
    return keras.Model(inputs, outputs, name="toy")


def names_that_train(model):
    own = [layer for layer in all_layers(model) if not isinstance(layer, keras.Model)]
    return {layer.name for layer in own if layer.trainable and layer.weights}


@pytest.mark.parametrize(
    ("freeze", "gone"),
    [
        (["stage1"], {"stage1_conv", "stage1_bn"}),
        (["stage1_bn"], {"stage1_bn"}),
        (["stage10", "stage1_c", "stage1_conv"], None),
        (["inner"], {"mix", "mix_bn"}),
        (["mix"], {"mix", "mix_bn"}),
        (["attention"], {"attention", "query", "key", "value", "attention_output"}),
        (["attention/query", "pool", "stage10"], None),
        (["attention/query", "stage10"], {"query", "stage10_conv"}),
        (["query"], {"query"}),
    ],
)
def test_a_name_stands_for_layers_whose_names_begin_with_its_words(freeze, gone):
    model = toy()
    before = names_that_train(model)
    if gone is None:  # one of the names stands for no layer
        with pytest.raises(UserError, match=r"train\.freeze must name layers of toy"):
            freeze_layers(model, freeze)
        return
    weights = sum(np.size(v) for v in model.trainable_variables)
    frozen = freeze_layers(model, freeze)
    assert before - names_that_train(model) == gone
    left = sum(np.size(v) for v in model.trainable_variables)
    assert frozen.num_parameters == weights - left > 0


def test_the_backbone_is_all_but_the_head():
    model = toy()
    freeze_layers(model, "backbone")
    assert names_that_train(model) == {"logits"}
    assert [v.path for v in model.trainable_variables] == ["logits/kernel", "logits/bias"]


@pytest.mark.backend
@pytest.mark.parametrize("freeze", ["backbone", ["stage1", "inner", "attention"]])
def test_frozen_layers_compute_as_in_evaluation(freeze):
    """No dropout, no batch statistics, and the moving ones stay: also in the fast training step."""
    keras.utils.set_random_seed(0)
    network = toy()
    for layer in all_layers(network):
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.full(8, 0.25))
            layer.moving_variance.assign(np.full(8, 4.0))
    pixels = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(network(pixels, training=False))
    statistics = [keras.ops.convert_to_numpy(v) for v in network.non_trainable_variables]
    assert not np.allclose(keras.ops.convert_to_numpy(network(pixels, training=True)), expected)
    for variable, value in zip(network.non_trainable_variables, statistics, strict=True):
        variable.assign(value)
    variables = network.non_trainable_variables
    freeze_layers(network, freeze)
    for model in (network, training_model(network)):
        found = keras.ops.convert_to_numpy(model(pixels, training=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for variable, value in zip(variables, statistics, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(variable), value)


def test_a_copy_is_not_frozen_where_it_is_written():
    """But a layer that never trains, such as the filters of whitening, does not train there."""
    model = build_model(
        "wide_resnet", image_size=16, num_classes=5, depth=6, stages=1, width=0.5, whitening={}
    )
    before = [layer.trainable for layer in all_layers(model)]
    frozen = freeze_layers(model, ["stem", "stage1_block1_2_bn"])
    assert frozen.layers >= {"stem_conv", "stage1_block1_2_bn"} and "whitening" not in frozen.layers
    copy = float32_copy(model)
    assert [layer.trainable for layer in all_layers(copy)] != before
    with unfrozen(copy, frozen):
        assert [layer.trainable for layer in all_layers(copy)] == before
    assert not copy.get_layer("stem_conv").trainable


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        (["stge1"], r'by the beginning of their names; received "stge1": did you mean "stage1"\?'),
        (["pool"], 'received "pool": known: attention'),
        (["stage1", "stage10", "inner", "attention", "logits"], "must leave a layer that trains"),
    ],
)
def test_names_of_nothing_and_of_everything_are_refused(freeze, sentence):
    with pytest.raises(UserError, match=sentence):
        freeze_layers(toy(), freeze)


def test_the_backbone_of_a_model_without_a_head_is_refused():
    inputs = keras.Input((4, 4, 3))
    outputs = layers.Dense(5, name="out")(layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(UserError, match='all layers but "logits", which headless does not have'):
        freeze_layers(keras.Model(inputs, outputs, name="headless"), "backbone")
