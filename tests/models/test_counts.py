"""Trainable parameters and multiply-accumulates of every network against published figures.

Networks are built without weights, so that the largest costs as little as the smallest. Figures of
the wide residual networks of arXiv:1707.08819 are in `test_wide_resnet` and below.
"""

import json
from functools import cache
from itertools import pairwise

import pytest
from generate.networks import FIGURES

from keras_imnet64.models import MODELS, build_model
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.macs import count_macs, count_parameters

LARGE = ("davit_large", "davit_huge", "davit_giant")  # `davit_base` with more channels and blocks
# name, image size, classes, options, parameters, billions of MACs as printed (None: not published)
NETWORKS = [
    # torchvision 0.28, models/*.py: num_params and _ops of its weights
    ("resnet18", 224, 1000, {}, 11_689_512, "1.814"),
    ("resnet34", 224, 1000, {}, 21_797_672, "3.664"),
    ("resnet50", 224, 1000, {}, 25_557_032, "4.089"),
    ("resnet101", 224, 1000, {}, 44_549_160, "7.801"),
    ("resnet152", 224, 1000, {}, 60_192_808, "11.514"),
    ("wide_resnet50_2", 224, 1000, {}, 68_883_240, "11.398"),
    ("alexnet", 224, 1000, {}, 61_100_840, "0.714"),
    ("vgg16", 224, 1000, {}, 138_357_544, "15.47"),
    ("vgg16_bn", 224, 1000, {}, 138_365_992, "15.47"),
    # automl/FOB, the 3x3 stem on ImageNet64
    ("wide_resnet50_2", 64, 1000, {"stem": "small_pool"}, 68_875_560, "3.69"),
    ("wide_resnet50_2", 64, 1000, {"stem": "small"}, 68_875_560, "14.74"),
    ("wide_resnet50_2", 64, 1000, {"stem": "imagenet"}, 68_883_240, "0.93"),
    ("wide_resnet50_2", 64, 200, {"stem": "imagenet"}, 67_244_040, None),
    # ResNet-18 on Tiny ImageNet
    ("resnet18", 128, 200, {}, 11_279_112, "0.592"),
    ("resnet18", 64, 200, {"stem": "imagenet"}, 11_279_112, "0.148"),
    # Tensor_Layer_Neural_Networks, branches of spectral networks
    ("resnet34", 56, 1000, {"stem": "small"}, 21_789_992, "3.55"),
    ("resnet34", 224, 10_450, {}, 26_645_522, None),
    ("resnet50", 224, 10_450, {}, 44_920_082, None),
    ("vgg16_bn", 112, 1000, {}, 54_479_912, None),
    ("vgg16_bn", 56, 1000, {}, 37_702_696, None),
    ("alexnet", 112, 1000, {}, 27_546_408, None),
    (
        "spectral",
        224,
        1000,
        {"factor": 2, "band": 0, "base": {"name": "vgg16_bn"}},
        54_479_912,
        None,
    ),
    ("spectral", 224, 1000, {"factor": 2, "base": {"name": "resnet34"}}, 4 * 21_797_672, None),
    # timm 1.0.31, models/davit.py
    ("davit_tiny", 224, 1000, {}, 28_360_168, "4.52"),
    ("davit_small", 224, 1000, {}, 49_745_896, "8.77"),
    ("davit_base", 224, 1000, {}, 87_954_408, "15.47"),
    ("davit_large", 224, 1000, {}, 196_811_752, "34.54"),
    ("davit_huge", 224, 1000, {}, 348_922_856, "61.16"),
    ("davit_giant", 224, 1000, {}, 1_406_470_120, "192.79"),
    ("davit_tiny", 64, 200, {}, 27_744_968, None),
    # its stems and windows at 64 pixels
    ("davit_tiny", 64, 1000, {"stem": "imagenet", "window": 7}, 28_360_168, "0.572"),
    ("davit_tiny", 64, 1000, {"stem": "imagenet", "window": 4}, 28_360_168, "0.395"),
    ("davit_tiny", 64, 1000, {"stem": "imagenet", "window": 8}, 28_360_168, "0.611"),
    ("davit_tiny", 64, 1000, {"stem": "small", "window": 8}, 28_360_168, "1.602"),
    ("davit_tiny", 64, 1000, {"stem": "small_3x3", "window": 8}, 28_348_648, "1.590"),
    ("davit_tiny", 64, 1000, {"stem": "full_3x3", "window": 8}, 28_348_648, "5.887"),
    ("davit_tiny", 64, 1000, {"stem": "full_3x3", "window": 7}, 28_348_648, "6.599"),
    ("davit_tiny", 64, 1000, {"stem": "full_15x15"}, 28_410_856, "4.681"),
    # counted by hand from its definition
    ("small_resnet", 64, 200, {}, 5_000_712, "0.254"),
    # the small networks for Tiny ImageNet
    ("tiny_cnn1", 64, 200, {}, 4_790_728, None),
    ("tiny_cnn2", 64, 200, {}, 1_725_528, None),
]
BILLIONS = {  # of WRN-N-k by (image size, width), arXiv:1707.08819
    (64, 0.5): 0.077,
    (64, 1): 0.292,
    (64, 2): 1.143,
    (64, 5): 7.054,
    (64, 10): 28.105,
    (32, 0.5): 0.015,
    (32, 1): 0.055,
    (32, 2): 0.214,
    (32, 5): 1.318,
    (32, 10): 5.244,
    (16, 1): 0.009,
    (16, 2): 0.036,
    (16, 5): 0.218,
    (16, 10): 0.866,
}


def without_numbers(name, image_size, num_classes=1000, **options):
    return built(name, image_size, num_classes, json.dumps(options))


@cache
def built(name, image_size, num_classes, options):
    """A network whose options are given as JSON; several tests look at the same ones."""
    with without_weights():
        return build_model(
            name, image_size=image_size, num_classes=num_classes, **json.loads(options)
        )


@cache
def billions(model):
    return count_macs(model) / 1e9


def slow_where_large(cases):
    """Marks the cases, names or tuples that begin with one, of networks that take long to build."""
    for case in cases:
        name, *_ = values = (case,) if isinstance(case, str) else case
        yield pytest.param(*values, marks=[pytest.mark.slow] if name in LARGE else [])


@pytest.mark.parametrize(
    ("name", "image_size", "num_classes", "options", "count", "macs"), slow_where_large(NETWORKS)
)
def test_published_figures(name, image_size, num_classes, options, count, macs):
    model = without_numbers(name, image_size, num_classes, **options)
    assert count_parameters(model) == count
    decimals = len(macs.partition(".")[2]) if macs else 0
    assert macs is None or f"{billions(model):.{decimals}f}" == macs


def test_every_network_has_a_published_figure():
    assert {name for name, *_ in NETWORKS} == set(MODELS) - {"wide_resnet"}


@pytest.mark.parametrize(("image_size", "width"), BILLIONS)
def test_wide_resnets_of_the_paper(image_size, width):
    depth = {64: 36, 32: 28, 16: 20}[image_size]
    model = without_numbers("wide_resnet", image_size, depth=depth, width=width)
    assert round(billions(model), 3) == BILLIONS[image_size, width]


def test_statistics_of_batch_normalisation_in_wide_resnet50_2():
    """53 layers; 68,951,464 numbers in all."""
    model = without_numbers("wide_resnet50_2", 224)
    assert model.count_params() - count_parameters(model) == 68_224


@pytest.mark.parametrize(
    "name", slow_where_large(name for name in MODELS if name.startswith("davit"))
)
def test_davits_by_their_formula(name):
    """A block of width C has 12 C^2 + 33 C parameters, in both kinds; a unit is one of each."""
    from keras_imnet64.models.davit import VARIANTS

    widths = [VARIANTS[name].channels * 2**stage for stage in range(4)]
    stem = 3 * 49 * widths[0] + 3 * widths[0]
    units = sum(
        pairs * (24 * width**2 + 66 * width)
        for pairs, width in zip(VARIANTS[name].pairs, widths, strict=True)
    )
    downsampling = sum(
        2 * before + 4 * before * after + after for before, after in pairwise(widths)
    )
    head = 2 * widths[-1] + 1000 * (widths[-1] + 1)
    count = count_parameters(without_numbers(name, 224))
    assert count == stem + units + downsampling + head


def test_variables_of_a_model_without_weights_are_not_created_later():
    import keras

    with without_weights():
        outline = build_model("tiny_cnn2", image_size=32, num_classes=10)
    with keras.src.backend.StatelessScope():
        pass  # whose end creates the variables that wait for it
    assert all(variable._value is None for variable in outline.variables)
    model = build_model("tiny_cnn2", image_size=32, num_classes=10)
    assert model.get_layer("logits").kernel.numpy().any()


@pytest.mark.parametrize("name", slow_where_large(MODELS))
def test_the_reference_states_the_counts(name):
    shown = FIGURES[name]
    model = without_numbers(name, shown.image_size, shown.num_classes, **shown.options)
    assert count_parameters(model) == shown.parameters
    assert f"{count_macs(model) / 1e9:.2f}" == shown.giga_macs
