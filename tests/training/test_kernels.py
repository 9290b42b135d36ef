"""The training model under TensorFlow against the plain model of the same layers and variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from killed import FOUR_BLOCKS

from keras_imnet64.models import build_model
from keras_imnet64.models.davit import VARIANTS
from keras_imnet64.models.init import initialize
from keras_imnet64.models.parts import pytorch_batch_norm
from keras_imnet64.training import kernels
from keras_imnet64.training.build import training_model
from keras_imnet64.training.kernels import KERNELS
from keras_imnet64.training.optim import make_optimizer, make_schedule

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="JAX trains the plain model"
)
RNG = np.random.default_rng(0)
DTYPES = ("float32", "mixed_bfloat16", "float64")


def step_of(model, variables, images, targets):
    """Outputs, gradients and variables after a training step without its update, as float64."""

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            outputs = tf.cast(model(images, training=True), "float64")
            loss = tf.reduce_sum(tf.cast(targets, "float64") * outputs)
        return outputs, tape.gradient(loss, [v.value for v in model.trainable_variables])

    before = [v.numpy() for v in variables]
    outputs, gradients = step(images)
    after = [v.numpy().astype("float64") for v in variables]
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return outputs.numpy(), [np.asarray(g, "float64") for g in gradients], after


def distance(a, b):
    """Between two lists of arrays, relative to the first."""
    total = sum(np.square(x - y).sum() for x, y in zip(a, b, strict=True))
    return np.sqrt(total / sum(np.square(x).sum() for x in a))


def with_weights_of(source, model):
    for variable, value in zip(model.variables, source.variables, strict=True):
        variable.assign(value.numpy())
    return model


# ------------------------------------------------------------------------------- layers by layers


def batch_norms(x):
    x = pytorch_batch_norm(x, "norm", gamma_initializer="random_normal")
    x = layers.BatchNormalization(scale=False, momentum=0.8)(x)
    x = layers.BatchNormalization(center=False, epsilon=0.1)(x)
    x = layers.Flatten()(x)
    return layers.BatchNormalization()(layers.Dense(5)(x))


def convolutions(x):
    x = layers.Conv2D(64, 1, activation="relu")(x)
    for filters, size, strides, padding in (
        (64, 3, 1, "same"),
        (64, 3, 2, "same"),
        (80, (2, 3), (1, 2), "valid"),
        (96, 5, 3, "same"),
    ):
        x = layers.Conv2D(filters, size, strides, padding, bias_initializer="normal")(x)
    return layers.Dense(3)(x)


def normalised_positions(x):
    x = layers.LayerNormalization(epsilon=1e-2, gamma_initializer="random_normal")(x)
    x = layers.Activation("gelu")(layers.Dense(7)(x))
    return layers.LayerNormalization()(x)


NETWORKS = {f.__name__: f for f in (batch_norms, convolutions, normalised_positions)}


@pytest.mark.parametrize("network", NETWORKS)
def test_kernels_give_what_the_layers_give(network):
    """In float32, to rounding; in bfloat16 as close to float64 as Keras' own layers are."""
    targets, models = None, {}
    for dtype in DTYPES:
        inputs = keras.Input((12, 12, 6), dtype="float32" if dtype != "float64" else dtype)
        with_dtype = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            models[dtype] = keras.Model(inputs, NETWORKS[network](inputs))
        finally:
            keras.config.set_dtype_policy(with_dtype)
    exact = with_weights_of(models["float32"], models["float64"])
    images = RNG.normal(1, 2, (16, 12, 12, 6)).astype("float32")
    targets = RNG.normal(size=(16, *exact.output_shape[1:]))
    wanted = step_of(exact, exact.variables, images.astype("float64"), targets)
    for dtype in DTYPES[:2]:
        plain = with_weights_of(models["float32"], models[dtype])
        fast = training_model(plain)
        assert type(fast) is not type(plain)
        of_plain = step_of(plain, plain.variables, images, targets)
        of_fast = step_of(fast, plain.variables, images, targets)
        for name, got, exactly, other in zip(
            ("outputs", "gradients", "variables"), of_fast, wanted, of_plain, strict=True
        ):
            lists = [x if isinstance(x, list) else [x] for x in (exactly, got, other)]
            error, of_keras = distance(*lists[:2]), distance(lists[0], lists[2])
            # Keras' own bfloat16 gradients are now and then not finite, and then no measure.
            in_bfloat16 = 1.5 * of_keras + 1e-3 if np.isfinite(of_keras) else 0.01
            limit = 1e-5 if dtype == "float32" else in_bfloat16
            assert error <= limit, (dtype, name)


def test_every_kernel_is_tried_above():
    inputs = keras.Input((12, 12, 6))
    used = {type(x) for make in NETWORKS.values() for x in keras.Model(inputs, make(inputs)).layers}
    assert set(KERNELS) <= used


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(axis=1),
        layers.Conv2D(6, 3, groups=2),
        layers.Conv2D(6, 3, dilation_rate=2),
        layers.Activation("silu"),
        layers.LayerNormalization(axis=(1, 2)),
        layers.LayerNormalization(rms_scaling=True),
        layers.Dense(3, dtype="float64"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_settings_are_left_to_keras(layer):
    layer.build((None, 8, 8, 6))
    assert KERNELS[type(layer)](layer) is None


# --------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide_resnet", {"depth": 8, "width": 2, "dropout": 0.3}),
        pytest.param("resnet18", {"stem": "small_pool"}, marks=pytest.mark.slow),
        pytest.param("tiny_cnn1", {}, marks=pytest.mark.slow),
        pytest.param(
            *("davit_tiny", {"stem": "small", "drop_path_rate": 0.3}), marks=pytest.mark.slow
        ),
    ],
)
def test_networks_draw_and_compute_the_same(name, options, slim, monkeypatch):
    """With dropout and stochastic depth; a float32 step in which no ReLU is at its kink."""
    monkeypatch.setitem(VARIANTS, "davit_tiny", FOUR_BLOCKS)
    size = 64 if name == "tiny_cnn1" else 32 if name == "resnet18" else 16
    model = build_model(name, image_size=size, num_classes=10, **options)
    initialize(model, 0)
    images = RNG.integers(0, 256, (8, size, size, 3)).astype("float32")
    targets = RNG.normal(size=(8, 10))
    fast = training_model(model)
    assert [v.path for v in fast.variables] == [v.path for v in model.variables]
    plain = step_of(model, model.variables, images, targets)
    mine = step_of(fast, model.variables, images, targets)
    assert distance([plain[0]], [mine[0]]) < 1e-4
    assert distance(plain[1], mine[1]) < 1e-2
    assert distance(plain[2], mine[2]) < 1e-5
    np.testing.assert_array_equal(fast(images), model(images))  # in inference: Keras' own layers


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_the_step_has_fused_operations_alone(dtype):
    """That kernels are called at all, and with their outputs in the dtype of the activations."""
    model = training_model(
        build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=1, dtype=dtype)
    )

    @tf.function
    def step(images):
        return model(images, training=True)

    operations = step.get_concrete_function(tf.zeros((2, 16, 16, 3))).graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert kinds.count("FusedBatchNormV3") == 5
    assert "SquaredDifference" not in kinds
    activations = "float32" if dtype == "float32" else "bfloat16"
    assert {o.inputs[0].dtype.name for o in operations if "BatchNorm" in o.type} == {activations}


def test_frozen_and_nested_layers():
    """A frozen normalisation uses its moving statistics; a nested model's kernels are fast too."""
    inputs = keras.Input((8, 8, 3))
    inner_inputs = keras.Input((8, 8, 4))
    inner = keras.Model(inner_inputs, layers.BatchNormalization(name="inner")(inner_inputs))
    frozen = layers.BatchNormalization(trainable=False, moving_mean_initializer="ones")
    model = keras.Model(inputs, inner(frozen(layers.Conv2D(4, 3, padding="same")(inputs))))
    images = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    called = []
    kernel = KERNELS[layers.BatchNormalization]

    def noted(layer):
        called.append(layer.name)
        return kernel(layer)

    targets = RNG.normal(size=(4, 8, 8, 4))
    plain = step_of(model, model.variables, images, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KERNELS, layers.BatchNormalization, noted)
        mine = step_of(training_model(model), model.variables, images, targets)
    assert called == [frozen.name, "inner"]
    for a, b in zip(plain, mine, strict=True):
        np.testing.assert_allclose(
            np.concatenate([np.ravel(x) for x in a]),
            np.concatenate([np.ravel(x) for x in b]),
            rtol=1e-4,
            atol=1e-4,
        )


# ------------------------------------------------------------------------------------ bit by bit


def test_bias_gradients_are_not_merged_into_convolutions():
    """Merged, their last bits depend in bfloat16 on the thread that runs them first."""
    model = training_model(
        keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, dtype="mixed_bfloat16")])
    )

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    graph = gradients.get_concrete_function(tf.zeros((2, 8, 8, 4))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert "Conv2DBackpropFilter" in kinds and "BiasAddGrad" not in kinds


def test_small_maps_get_their_kernel_gradient_from_products(monkeypatch):
    calls = []
    products = kernels.kernel_gradient_by_products
    monkeypatch.setattr(
        kernels, "kernel_gradient_by_products", lambda *a: calls.append(a[2]) or products(*a)
    )
    for size, channels, dtype in (
        (4, 64, "bfloat16"),
        (5, 64, "bfloat16"),
        (4, 63, "bfloat16"),
        (4, 64, "float32"),
    ):
        x, kernel = tf.zeros((2, size, size, channels), dtype), tf.zeros((3, 3, channels, 4), dtype)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = kernels.conv2d(x, kernel, (1, 1), "SAME")
        tape.gradient(y, kernel)
    assert len(calls) == 1


# ----------------------------------------------------------------------------- what others may do


def test_layers_with_losses_masks_and_other_dtypes_train_as_in_keras():
    inputs = keras.Input((6, 4))
    x = layers.Masking(0.0)(inputs)
    x = layers.Dense(4, activity_regularizer="l2")(layers.BatchNormalization()(x))
    x = layers.BatchNormalization(dtype="bfloat16")(x)
    model = keras.Model(inputs, layers.Dense(2, dtype="float64")(layers.SimpleRNN(3)(x)))
    images = RNG.normal(size=(8, 6, 4)).astype("float32")
    images[:, 4:] = 0
    constant = make_schedule(
        "constant", learning_rate=0.1, steps_per_epoch=1, num_epochs=1, warmup_epochs=0
    )
    start, results = model.get_weights(), []
    for each in (model, training_model(model)):
        model.set_weights(start)
        each.compile(make_optimizer("sgd", constant, momentum=0.9), "mse")
        losses = [each.train_on_batch(images, np.ones((8, 2))) for _ in range(3)]
        results.append((losses, model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for a, b in zip(*[weights for _, weights in results], strict=True):
        np.testing.assert_allclose(a.astype("float64"), b.astype("float64"), rtol=1e-4, atol=1e-5)


def test_maps_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 1)(layers.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    images, targets = RNG.normal(size=(2, 9, 7, 3)).astype("float32"), RNG.normal(size=(2, 7, 5, 2))
    plain = step_of(model, model.variables, images, targets)
    mine = step_of(training_model(model), model.variables, images, targets)
    for a, b in zip(plain[1], mine[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
