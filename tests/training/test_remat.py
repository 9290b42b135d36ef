"""Training that recomputes activations against training that keeps them."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers
from test_fit import SignalAt

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import Stopped, UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import graph_of
from keras_imnet64.training.build import compile_for_training, training_model
from keras_imnet64.training.fit import fit
from keras_imnet64.training.remat import Segment, joined, set_remat, smallest_segments
from keras_imnet64.training.state import read_variables, variables_by_path

WRN = {"name": "wide_resnet", "depth": 6, "stages": 1, "width": 0.5, "dropout": 0.3}
RESNET = {  # a DaViT is in `test_parallel`
    "name": "small_resnet",
    "widths": [16],
    "blocks": [2],
    "stem_stride": 1,
    "drop_path_rate": 0.4,
}


def devices():
    return Devices(keras.config.backend(), "cpu", ("cpu:0",))


def two_steps(recipe, model=None):
    """{path: array} of a model before and after two steps, and the losses."""
    if model is None:
        options, dtype = recipe.model.options, recipe.train.dtype
        model = build_model(
            recipe.model.name, image_size=16, num_classes=10, dtype=dtype, **options
        )
        initialize(model, 0)
    model = training_model(model)
    metrics = compile_for_training(model, recipe, 10, devices())
    variables = variables_by_path(model, metrics)
    before = read_variables(model, variables)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 16, 3), "uint8")
    labels = rng.integers(0, 10, (2, 16)).astype("int32")
    losses = [model.train_on_batch(*batch)[0] for batch in zip(images, labels, strict=True)]
    return before, read_variables(model, variables), losses


def norm(arrays):
    return np.sqrt(sum(np.square(array.astype("float64")).sum() for array in arrays))


def check_same(plain, again, tolerance):
    """The same losses and states, by the length of all updates; seeds to the bit."""
    (before, after, losses), (before_again, after_again, losses_again) = plain, again
    assert before.keys() == before_again.keys() == after_again.keys()
    np.testing.assert_allclose(losses_again, losses, rtol=tolerance)
    for kind in ("/moving_", "_momentum", "_average", "/kernel", "/gamma"):
        paths = [path for path in before if kind in path]
        difference = norm(after_again[path] - after[path] for path in paths)
        update = norm(after[path] - before[path] for path in paths)
        assert difference <= tolerance * update, kind
    seeds = [path for path in before if "seed_generator_state" in path]
    assert seeds
    for path in seeds:
        assert np.array_equal(after[path], after_again[path])
        assert after[path][1] == 2  # each draws once in a step


@pytest.mark.parametrize(
    ("model", "train", "tolerance"),
    [
        pytest.param(WRN, {"ema": 0.9}, 1e-4, marks=pytest.mark.slow),
        (WRN, {"ema": 0.9, "xla": "on"}, 1e-4),
        (WRN, {"dtype": "mixed_bfloat16", "ema": 0.9}, 0.03),
        (RESNET, {"ema": 0.9, "accumulate_steps": 2}, 1e-3),
    ],
)
def test_two_steps_are_the_same(model, train, tolerance, small_recipe, slimmer):
    """With L2, dropout or stochastic depth: what is drawn differently would change everything.

    Under JAX a model of one's own, below.
    """
    optimizer = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}
    recipes = [
        small_recipe(model=model, optimizer=optimizer, train=train | {"remat": remat})
        for remat in (False, True)
    ]
    plain, again = map(two_steps, recipes)
    check_same(plain, again, tolerance)


def test_a_run_out_of_memory_may_go_on_with_it(small_recipe, data_dir, tmp_path):
    """It has the history of one without; test_finetune and test_interruption kill runs with it."""
    plain, recipe = (
        small_recipe(
            model={"dropout": 0.2}, train={"epochs": 1, "validate_every": 0, "remat": remat}
        )
        for remat in (False, True)
    )
    without = fit(plain, tmp_path / "plain", data_dir=data_dir)
    with pytest.raises(Stopped):
        fit(plain, tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(0, 3)])
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    (first,), (second,) = without.history, run.history
    for key in ("loss", "top1"):
        assert float(second[key]) == pytest.approx(float(first[key]), rel=1e-3), key
    losses = [each.metrics["model.keras"]["loss"] for each in (without, run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# --------------------------------------------------------------------------------- what it is for


FIVE_BLOCKS = {
    "name": "wide_resnet",
    "image_size": 32,
    "num_classes": 10,
    "depth": 14,
    "stages": 1,
    "width": 1,
}


def kept_bytes(model):
    """Bytes of the tensors that the backward pass takes from the first pass, weights included."""
    shape = (8, *model.input_shape[1:])
    return {"tensorflow": kept_by_tensorflow, "jax": kept_by_jax}[keras.config.backend()](
        model, shape
    )


def kept_by_tensorflow(model, shape):
    """What depends on the gradient at the end belongs to the backward pass."""
    import tensorflow as tf

    @tf.function
    def gradients(images, upstream):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
        return tape.gradient(logits, [v.value for v in model.trainable_variables], upstream)

    images = tf.TensorSpec(shape, "float32")
    upstream = tf.TensorSpec((shape[0], model.output_shape[-1]), "float32", name="upstream")
    graph = gradients.get_concrete_function(images, upstream).graph
    backward, kept = {graph.get_operation_by_name("upstream")}, {}
    for operation in graph.get_operations():  # in the order in which they were made
        sources = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        if sources & backward:
            backward.add(operation)
            kept |= {tensor.name: tensor for tensor in operation.inputs}
    forward = [tensor for tensor in kept.values() if tensor.op not in backward]
    sized = [t for t in forward if t.dtype.size and t.shape.is_fully_defined()]
    return sum(t.shape.num_elements() * t.dtype.size for t in sized)


def kept_by_jax(model, shape):
    import jax

    def residuals(weights, others, images):
        def logits(weights):
            return model.stateless_call(weights, others, images, training=True)[0]

        return jax.vjp(logits, weights)[1]

    values = [[v.value for v in vs] for vs in (model.trainable_variables,)]
    others = [v.value for v in model.non_trainable_variables]
    found = jax.eval_shape(residuals, values[0], others, np.zeros(shape, "float32"))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree_util.tree_leaves(found))


@pytest.mark.backend
def test_less_is_kept_for_the_backward_pass():
    model = training_model(build_model(**FIVE_BLOCKS))
    plain = kept_bytes(model)
    set_remat(model, True, xla=False)
    again = kept_bytes(model)
    assert again < 0.5 * plain
    set_remat(model, False, xla=False)
    assert kept_bytes(model) == plain


def gradients_under_jax(model):
    """The compiled function of the gradients, and what it takes."""
    import jax

    def loss(weights, others, images):
        logits, others = model.stateless_call(weights, others, images, training=True)
        return jax.numpy.square(logits).mean(), others

    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    images = np.zeros((8, *model.input_shape[1:]), "float32")
    return jax.jit(jax.value_and_grad(loss, has_aux=True)), (weights, others, images)


@pytest.mark.backend
@pytest.mark.skipif(keras.config.backend() != "jax", reason="what XLA does with JAX's programs")
def test_xla_holds_the_second_pass_back():
    """Through a loop on CPUs, where it drops the barriers that it heeds on GPUs."""
    model = training_model(build_model(**FIVE_BLOCKS, dropout=0.2))
    needed = {}
    for remat in (False, True):
        set_remat(model, remat, xla=False)
        function, inputs = gradients_under_jax(model)
        needed[remat] = function.lower(*inputs).compile().memory_analysis().temp_size_in_bytes
    assert needed[True] < 0.6 * needed[False]
    on_gpus = function.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert "optimization_barrier" in on_gpus
    assert "while" not in on_gpus


# ---------------------------------------------------------------------------- cutting into segments


def test_a_wide_resnet_is_cut_between_its_blocks():
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=1)
    cuts = [s.outputs[0]._keras_history.operation.name for s in smallest_segments(graph_of(model))]
    inside = ("stage1_block1", "stage2_block1")  # where the shortcut passes too
    assert [cut for cut in cuts if cut.startswith(inside)] == [f"{name}_add" for name in inside]
    assert "stem_conv" in cuts and "final_bn" in cuts


def chain(*sizes):
    """Segments of so many bytes, each of which passes on a tensor of another number of bytes."""
    passing = [keras.KerasTensor((None, bytes_ // 4), "float32") for _, bytes_ in sizes]
    return [
        Segment([before], [after], size)
        for (size, _), (before, after) in zip(
            sizes, itertools.pairwise([None, *passing]), strict=True
        )
    ]


def test_segments_are_joined_so_that_the_least_is_held():
    # Two parts of 200 bytes, and 40 + 4 passed: of three or four parts, 100 and at least 80 + 4.
    parts = joined(chain((100, 400), (100, 40), (100, 400), (100, 4)))
    assert [part.num_bytes for part in parts] == [200, 200]
    assert parts[0].outputs[0].shape == (None, 10)
    # Cheap tensors between large segments: none is joined.
    parts = joined(chain((100, 4), (100, 4), (100, 4)))
    assert [part.num_bytes for part in parts] == [100, 100, 100]


# ------------------------------------------------------------------------------------- own models


def own_model(activity_regularizer=None):
    """A sequential model around a functional one, whose shared layer is called in two segments."""
    inputs = keras.Input((16, 16, 8))
    shared = layers.BatchNormalization(name="shared")
    x = inputs
    for number in (1, 2, 3):
        x = layers.Conv2D(8, 3, padding="same", name=f"conv{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(shared(x))
    body = keras.Model(inputs, x, name="body")
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(8, 1, name="widen", activity_regularizer=activity_regularizer),
            body,
            layers.Dropout(0.5, seed=1, name="drop"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(10, name="dense"),
        ],
        name="own",
    )


@pytest.mark.backend
def test_a_model_of_ones_own_with_a_model_inside(small_recipe):
    results, models = [], []
    for remat in (False, True):
        model = own_model()
        initialize(model, 0)
        recipe = small_recipe(
            optimizer={"momentum": 0.9}, train={"ema": 0.9, "remat": remat}, loss={"l2": 1e-4}
        )
        results.append(two_steps(recipe, model))
        models.append(model)
    check_same(*results, 1e-4)
    assert kept_bytes(models[1]) < kept_bytes(models[0])


class Subclassed(keras.Model):
    pass


def test_what_cannot_be_recomputed_is_refused():
    with pytest.raises(UserError, match="functional or sequential model; received a Subclassed"):
        set_remat(Subclassed(), True, xla=False)
    with pytest.raises(UserError, match='layer "widen", which has an activity_regularizer'):
        set_remat(own_model("l2"), True, xla=False)
    inputs = keras.Input((4,))
    one = keras.Model(inputs, layers.Dense(2)(inputs), name="one_layer")
    with pytest.raises(UserError, match='saves nothing in the model "one_layer"'):
        set_remat(one, True, xla=False)
