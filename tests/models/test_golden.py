"""Our networks compute the logits of the published ones, to within float32 rounding.

`golden/make.py` filled the networks of torchvision, timm and the paper with weights of
`golden/rule.py` and froze their logits. Here our networks get the same weights, by the names in
`convert.namings`. The second half shows which mistakes the comparison notices.
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.initializers import RandomNormal, RandomUniform, VarianceScaling

from keras_imnet64.convert import namings as foreign
from keras_imnet64.models import build_model
from keras_imnet64.models.keras_private import without_weights
from tests.models.golden import rule

FROZEN = json.loads((Path(__file__).parent / "golden" / "logits.json").read_text())
NETWORKS = FROZEN["networks"]
TOLERANCE = 2e-5  # of the largest logit; rounding moved them by up to 3e-6
STOCK = {"stem": "imagenet"}
SMALL_POOL = {"stem": "small_pool"}
STOCK_DAVIT = foreign.FAMILIES["davit"].options


def lasagne(layer):
    """The naming of the plain WRN in `golden/make.py`, as those of `foreign`."""
    ends = {"stem_conv": "stem_conv", "stem_bn": "stem_bn", "final_bn": "end_bn", "logits": "fc"}
    if layer in ends:
        return ends[layer]
    stage, block, part = re.fullmatch(r"stage(\d)_block(\d)_(.+)", layer).groups()
    parts = {"1_bn": "bn_a", "conv1": "conv_a", "2_bn": "bn_b", "conv2": "conv_b"}
    parts["shortcut"] = "projection"
    return f"stacks.{int(stage) - 1}.{int(block) - 1}.{parts[part]}"


CASES = {  # case: model, its options, naming
    "wrn36_2_64": ("wide_resnet", {"depth": 36, "width": 2}, lasagne),
    "wrn28_2_32": ("wide_resnet", {"depth": 28, "width": 2}, lasagne),
    "resnet18": ("resnet18", {}, foreign.resnet),
    "resnet34": ("resnet34", {}, foreign.resnet),
    "resnet50": ("resnet50", {}, foreign.resnet),
    "resnet101_64": ("resnet101", STOCK, foreign.resnet),
    "resnet152_64": ("resnet152", STOCK, foreign.resnet),
    "wide_resnet50_2": ("wide_resnet50_2", {}, foreign.resnet),
    "wide_resnet50_2_64": ("wide_resnet50_2", STOCK, foreign.resnet),
    "wide_resnet50_2_small_pool_64": ("wide_resnet50_2", SMALL_POOL, foreign.resnet),
    "resnet18_anti_aliasing_64": ("resnet18", {"anti_aliasing": True} | STOCK, foreign.resnet),
    "davit_tiny": ("davit_tiny", {}, foreign.davit),
    "davit_tiny_64": ("davit_tiny", STOCK_DAVIT, foreign.davit),
    "davit_small": ("davit_small", {}, foreign.davit),
    "alexnet": ("alexnet", STOCK, foreign.alexnet),
    "vgg16": ("vgg16", {}, foreign.torchvision_vgg),
    "vgg16_bn": ("vgg16_bn", {}, foreign.torchvision_vgg_bn),
}
CHEAP = ("wrn28_2_32", "resnet18_anti_aliasing_64", "davit_tiny_64", "alexnet")
# They differ from those that each run of the tests compares in numbers of blocks, channels and
# pixels, and `vgg16` in having no normalisation; the names and shapes of their tensors show it.
LIKE_OTHERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101_64", "resnet152_64"),
    *("wide_resnet50_2", "wide_resnet50_2_64", "wrn36_2_64", "davit_tiny", "davit_small", "vgg16"),
)
# Under JAX `test_training_parity` compares the blocks of all families, but not the blur.
MARKS = dict.fromkeys(LIKE_OTHERS, pytest.mark.slow) | {CHEAP[1]: pytest.mark.backend}


def filled(case):
    """Returns our network of a case with the rule's weights."""
    name, options, naming = CASES[case]
    with pytest.MonkeyPatch.context() as patch:
        for kind in (VarianceScaling, RandomNormal, RandomUniform):  # drawing takes long
            patch.setattr(kind, "__call__", lambda self, shape, dtype: np.zeros(shape, dtype))
        size = NETWORKS[case]["image_size"]
        model = build_model(name, image_size=size, num_classes=10, **options)
    for tensor in foreign.tensors_of(model, naming):
        tensor.variable.assign(tensor.to_keras(rule.values(tensor.name, tensor.shape)))
    return model


def difference(model, case):
    """Returns the largest difference from the frozen logits, relative to the largest logit."""
    images = rule.images(NETWORKS[case]["image_size"])
    # One batch is fastest uncompiled under TensorFlow, compiled under JAX.
    predict = model.predict_on_batch if keras.backend.backend() == "jax" else model
    ours = keras.ops.convert_to_numpy(predict(images))
    theirs = np.array(NETWORKS[case]["logits"])
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def digest(tensors):
    return rule.digest({tensor.name: tensor.shape for tensor in tensors})


@pytest.fixture(scope="module")
def network():
    """A function that builds the network of a case once; tests undo their changes."""
    made = {}

    def network(case):
        if case not in made:
            made[case] = filled(case)
        return made[case]

    yield network
    for case, model in made.items():
        assert difference(model, case) <= TOLERANCE, f"a change of {case} was not undone"


def test_every_frozen_network_is_compared():
    assert list(CASES) == list(NETWORKS)


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_of_tensors_are_those_of_the_reference(case):
    name, options, naming = CASES[case]
    size = NETWORKS[case]["image_size"]
    with without_weights():
        model = build_model(name, image_size=size, num_classes=10, **options)
        assert digest(foreign.tensors_of(model, naming)) == NETWORKS[case]["tensors"]


@pytest.mark.parametrize("case", [pytest.param(c, marks=MARKS.get(c, ())) for c in CASES])
def test_logits_are_those_of_the_reference(network, case):
    model = network(case) if case in CHEAP else filled(case)
    assert difference(model, case) <= TOLERANCE


# ------------------------------------------------------------------------------------- mutations


@contextmanager
def attribute(model, pattern, name, value):
    """Sets an attribute of every layer whose name matches."""
    found = [layer for layer in model.layers if re.search(pattern, layer.name)]
    before = [getattr(layer, name) for layer in found]
    assert found
    for layer in found:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, was in zip(found, before, strict=True):
            setattr(layer, name, was)


@contextmanager
def weights(model, pattern, name, change):
    """Changes a weight of every layer whose name matches; `change` takes and returns a list."""
    found = [getattr(layer, name) for layer in model.layers if re.search(pattern, layer.name)]
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in found]
    assert found
    for variable, array in zip(found, change(before), strict=True):
        variable.assign(array)
    try:
        yield
    finally:
        for variable, array in zip(found, before, strict=True):
            variable.assign(array)


def zeros(arrays):
    return [np.zeros_like(array) for array in arrays]


def swapped(pair):
    return pair[::-1]


def pad(before, after):
    """Padding of rows and of columns."""
    return ((before, after), (before, after))


def tanh_gelu(x):
    return keras.ops.gelu(x, approximate=True)


WRN, RESNET, DAVIT, ALEXNET = CHEAP
MUTATIONS = {
    "PyTorch's epsilon in WRN's stem": (WRN, attribute, "stem_bn", "epsilon", 1e-5),
    "PyTorch's epsilon first in WRN's blocks": (WRN, attribute, "_1_bn$", "epsilon", 1e-5),
    "PyTorch's epsilon second in WRN's blocks": (WRN, attribute, "_2_bn$", "epsilon", 1e-5),
    "PyTorch's epsilon at WRN's end": (WRN, attribute, "final_bn", "epsilon", 1e-5),
    "WRN's epsilon in the stem": (RESNET, attribute, "stem_bn", "epsilon", 1e-4),
    "WRN's epsilon in bn1": (RESNET, attribute, "block._bn1", "epsilon", 1e-4),
    "WRN's epsilon in bn2": (RESNET, attribute, "block._bn2", "epsilon", 1e-4),
    "WRN's epsilon in the shortcuts": (RESNET, attribute, "shortcut_bn", "epsilon", 1e-4),
    "Keras' epsilon in the stem": (RESNET, attribute, "stem_bn", "epsilon", 1e-3),
    "Keras' epsilon in bn1": (RESNET, attribute, "block._bn1", "epsilon", 1e-3),
    "Keras' epsilon in bn2": (RESNET, attribute, "block._bn2", "epsilon", 1e-3),
    "Keras' epsilon in the shortcuts": (RESNET, attribute, "shortcut_bn", "epsilon", 1e-3),
    "Keras' epsilon in DaViT's stem": (DAVIT, attribute, "stem_norm", "epsilon", 1e-3),
    "Keras' epsilon before attention": (DAVIT, attribute, "_norm1", "epsilon", 1e-3),
    "Keras' epsilon before the MLPs": (DAVIT, attribute, "_norm2", "epsilon", 1e-3),
    "Keras' epsilon between stages": (DAVIT, attribute, "downsample_norm", "epsilon", 1e-3),
    "Keras' epsilon in DaViT's head": (DAVIT, attribute, "head_norm", "epsilon", 1e-3),
    "two gammas of a ResNet": (RESNET, weights, "stage1_block1_bn[12]", "gamma", swapped),
    "two gammas of DaViT": (DAVIT, weights, "stage4_block1_channel_norm.", "gamma", swapped),
    "no bias in a second convolution": (WRN, weights, "stage2_block2_conv2", "bias", zeros),
    "no bias in queries, keys, values": (DAVIT, weights, "stage1_.*window_qkv", "bias", zeros),
    "no bias in a convolution": (ALEXNET, weights, "conv3$", "bias", zeros),
    "a 3x3 padded as same": (WRN, attribute, "stage2_block1_conv1_pad", "padding", pad(0, 1)),
    "a 7x7 padded as same": (RESNET, attribute, "stem_conv_pad", "padding", pad(2, 3)),
    "a pool padded at the end": (RESNET, attribute, "stem_pool_pad", "padding", pad(0, 2)),
    "a window padded before": (DAVIT, attribute, "stage1.*window_pad", "padding", pad(5, 0)),
    "a maximum in the blur": (RESNET, attribute, "stage2_block1_blur_1", "pool_mode", "max"),
    "an averaging first pool": (ALEXNET, attribute, "pool1", "pool_mode", "average"),
    "an averaging last pool": (ALEXNET, attribute, "features", "pool_mode", "average"),
    "attention without its scale": (DAVIT, attribute, "_scale$", "scale", 1.0),
    "the approximate GELU": (DAVIT, attribute, "gelu", "activation", tanh_gelu),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_comparison_notices(network, mutation):
    case, change, *what = MUTATIONS[mutation]
    model = network(case)
    with change(model, *what):
        assert difference(model, case) > TOLERANCE


# --------------------------------------------------------------------------------------- namings


def tensors_of(name, naming):
    with without_weights():
        model = build_model(name, image_size=224, num_classes=10)
        weights = [v for v in model.variables if "seed" not in v.path]  # dropout's are no weights
        return foreign.tensors_of(model, naming), weights


LARGE = ("davit_large", "davit_huge", "davit_giant")  # `davit_base` with more channels and blocks


@pytest.mark.parametrize(
    ("name", "naming"),
    [
        pytest.param(name, naming, marks=[pytest.mark.slow] if name in LARGE else [])
        for name, row in foreign.NAMINGS.items()
        for naming in row
    ],
)
def test_namings_give_every_weight_a_name_of_its_own(name, naming):
    tensors, weights = tensors_of(name, naming)
    assert {id(tensor.variable) for tensor in tensors} == {id(variable) for variable in weights}
    assert len({tensor.name for tensor in tensors}) == len(tensors) == len(weights)


@pytest.mark.parametrize("name", FROZEN["timm tensors"])
def test_vggs_of_timm_have_the_same_tensors_under_other_names(name):
    tensors, _ = tensors_of(name, foreign.NAMINGS[name][1])
    assert digest(tensors) == FROZEN["timm tensors"][name]
