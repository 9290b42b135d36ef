"""One training step of a block of each kind: output, gradients and running statistics.

`golden/make.py` froze what blocks of torchvision, timm and the paper's WRN compute from weights and
inputs of `golden/rule.py` in training mode, where the loss is a weighted sum of the output. Maps
are [B, H, W, C], parameters have PyTorch's layout.
"""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
from test_golden import lasagne

from keras_imnet64.convert import namings as foreign
from keras_imnet64.models import build_model, davit, resnet, vgg, wide_resnet
from tests.models.golden import rule

FROZEN = np.load(Path(__file__).parent / "golden" / "training.npz")
TOLERANCE = 2e-5  # of the largest number of each array; rounding moved them by up to 3e-6
IMAGES = 3


# ---------------------------------------------------------------------------------------- blocks


def one_block(block, shape, **options):
    inputs = keras.Input(shape)
    return keras.Model(inputs, block(inputs, **options))


def within(module, naming):
    """Returns a naming relative to one module of the reference network."""
    return lambda layer: naming(layer).removeprefix(f"{module}.")


def wide_resnet_block():
    options = {"project": True, "preactivate": True, "dropout": 0.0, "name": "stage1_block1"}
    model = one_block(wide_resnet.residual_block, (6, 6, 6), filters=8, stride=2, **options)
    return model, within("stacks.0.0", lasagne)


def basic_block():
    model = one_block(resnet.basic_block, (6, 6, 6), channels=8, stride=2, name="stage1_block1")
    return model, within("layer1.0", foreign.resnet)


def bottleneck_block():
    name = "stage1_block1"
    model = one_block(resnet.bottleneck_block, (7, 7, 6), channels=4, stride=2, name=name)
    return model, within("layer1.0", foreign.resnet)


def window_block():
    """Windows of 4 on a map of 6: two rows and two columns of zeros take part."""
    options = {"window": 4, "head_channels": 4, "name": "stage1_block1_window"}
    model = one_block(davit.window_block, (6, 6, 8), **options)
    return model, within("stages.0.blocks.0.0", foreign.davit)


def channel_block():
    options = {"head_channels": 4, "name": "stage1_block1_channel"}
    model = one_block(davit.channel_block, (6, 6, 8), **options)
    return model, within("stages.0.blocks.0.1", foreign.davit)


def vgg_layer():
    """The third convolution of a VGG of three, each of its own stage, on a map of 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "STAGES", ((4, 1), (6, 1), (8, 1)))
        network = build_model("vgg16_bn", image_size=32, num_classes=2)
    before, after = (
        network.get_layer(name).output for name in ("stage2_pool", "stage3_conv1_relu")
    )
    names = {"stage3_conv1": "0", "stage3_conv1_bn": "1"}
    return keras.Model(before, after), names.get


BLOCKS = {  # as in FROZEN: function that gives a model and its naming
    "wide_resnet": wide_resnet_block,
    "basic": basic_block,
    "bottleneck": bottleneck_block,
    "window": window_block,
    "channel": channel_block,
    "vgg": vgg_layer,
}


# ------------------------------------------------------------------------------------- the step


def step_of(model, tensors):
    """{name as in FROZEN: array} of one step in training mode, laid out as our variables are."""
    x = rule.uniform("input", (IMAGES, *model.input.shape[1:]))
    weights = rule.uniform("loss", (IMAGES, *model.output.shape[1:]))
    take = {"tensorflow": tensorflow_step, "jax": jax_step}[keras.backend.backend()]
    output, of_input, gradients, after = take(model, x, weights)
    arrays = {"output": output, "gradient/input": of_input}
    paths = [v.path for v in model.trainable_variables + model.non_trainable_variables]
    by_path = dict(zip(paths, [*gradients, *after], strict=True))
    for tensor in tensors:
        kind = "gradient" if tensor.variable.trainable else "after"
        arrays[f"{kind}/{tensor.name}"] = by_path[tensor.variable.path]
    return {name: keras.ops.convert_to_numpy(array) for name, array in arrays.items()}


def tensorflow_step(model, x, weights):
    """Output, gradient of the input, gradients of the weights, statistics after the step."""
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = model(x, training=True)
        loss = tf.reduce_sum(output * weights)
    of_input, *gradients = tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])
    return output, of_input, gradients, model.non_trainable_variables


def jax_step(model, x, weights):
    """The same."""
    import jax

    trainable, statistics = (
        [v.value for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    def loss(x, trainable):
        output, after = model.stateless_call(trainable, statistics, x, training=True)
        return (output * weights).sum(), (output, after)

    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (of_input, gradients), (output, after) = step(x, trainable)
    return output, of_input, gradients, after


# -------------------------------------------------------------------------------- the comparison


def expected(block, model, tensors):
    """{name: frozen array}, laid out as ours."""
    prefix = f"{block}/"
    names = [key.removeprefix(prefix) for key in FROZEN.files if key.startswith(prefix)]
    arrays = {name: FROZEN[prefix + name] for name in names}
    counts = numbers_per_channel(model)
    for tensor in tensors:
        name = f"{'gradient' if tensor.variable.trainable else 'after'}/{tensor.name}"
        if tensor.variable.path in counts:
            arrays[name] = with_biased_variance(arrays[name], tensor, counts)
        arrays[name] = tensor.to_keras(arrays[name])
    return arrays


def numbers_per_channel(model):
    """Returns {path of a moving variance: how many numbers of a batch it covers}."""
    norms = [v for v in model.layers if isinstance(v, keras.layers.BatchNormalization)]
    return {v.moving_variance.path: IMAGES * math.prod(v.input.shape[1:3]) for v in norms}


def with_biased_variance(after, tensor, counts):
    """Returns Keras' moving variance; PyTorch's uses n / (n - 1) times that of the batch."""
    n = counts[tensor.variable.path]
    kept = 0.9 * rule.values(tensor.name, tensor.shape)
    return kept + (after - kept) * (n - 1) / n


def differences(block, **changes):
    """Returns {name: largest difference relative to the largest number} of each array.

    The gradient of a bias before BN is 0 but for rounding, so it is compared with the largest
    number of all arrays.

    Args:
        changes: attributes that layers get before the step.
    """
    model, naming = BLOCKS[block]()
    tensors = foreign.tensors_of(model, naming)
    for tensor in tensors:
        tensor.variable.assign(tensor.to_keras(rule.values(tensor.name, tensor.shape)))
    for attribute, value in changes.items():
        for layer in model.layers:
            if hasattr(layer, attribute):
                setattr(layer, attribute, value)
    theirs, ours = expected(block, model, tensors), step_of(model, tensors)
    assert set(ours) == set(theirs)
    scales = {name: np.abs(array).max() for name, array in theirs.items()}
    scales = {name: s if s > 1e-9 else max(scales.values()) for name, s in scales.items()}
    return {name: np.abs(ours[name] - theirs[name]).max() / scales[name] for name in theirs}


def test_every_frozen_block_is_compared():
    assert {key.split("/")[0] for key in FROZEN.files} == set(BLOCKS)


@pytest.mark.backend
@pytest.mark.parametrize("block", BLOCKS)
def test_a_step_is_that_of_the_reference(block):
    found = differences(block)
    assert {name: part for name, part in found.items() if part > TOLERANCE} == {}


@pytest.mark.parametrize(
    ("block", "change", "noticed"),
    [
        ("wide_resnet", {"epsilon": 1e-5}, "gradient/conv_a.weight"),
        ("basic", {"epsilon": 1e-4}, "output"),
        ("bottleneck", {"momentum": 0.99}, "after/bn2.running_mean"),
        ("vgg", {"momentum": 0.99}, "after/1.running_var"),
        ("window", {"epsilon": 1e-3}, "gradient/attn.qkv.weight"),
        ("channel", {"scale": 1.0}, "gradient/attn.qkv.bias"),
    ],
)
def test_comparison_notices(block, change, noticed):
    assert differences(block, **change)[noticed] > 5 * TOLERANCE
