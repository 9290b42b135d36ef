"""Weights that begin by passing channels on, `model.init = "dirac"`."""

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import MODELS, build_model
from keras_imnet64.models.init import dirac, initialize
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.macs import count_parameters
from keras_imnet64.training.build import make_network

WRN = {"name": "wide_resnet", "depth": 8, "width": 0.5}
NETWORKS = {
    "wide_resnet": (16, {"depth": 8, "width": 0.5}),
    "resnet50": (8, {"stem": "small"}),
    "small_resnet": (8, {"widths": [8, 4], "blocks": [1, 1]}),  # more channels in than out, too
    "vgg16_bn": (32, {}),
}
NUM_LARGER = {"wide_resnet": 5, "resnet50": 3, "small_resnet": 5, "vgg16_bn": 5}  # than 1x1


def larger_convolutions(model):
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    return [layer for layer in found if layer.kernel_size != (1, 1)]


def values(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def test_a_kernel_by_hand():
    kernel = np.full((3, 3, 2, 4), 7.0)
    found = dirac(kernel)
    assert (kernel == 7).all()
    assert (found[..., 2:] == 7).all()
    ones = np.argwhere(found[..., :2])
    assert ones.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert found[..., :2].sum() == 2


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (3, 3, 5, 2), (2, 2, 3, 3), (7, 7, 3, 64)])
def test_kernels_are_those_of_pytorch(shape):
    torch = pytest.importorskip("torch")
    kernel = np.random.default_rng(0).normal(size=shape)
    theirs = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    torch.nn.init.dirac_(theirs[: shape[2]])
    np.testing.assert_array_equal(dirac(kernel), theirs.numpy().transpose(2, 3, 1, 0))


@pytest.mark.backend
@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_pass_their_channels_on_and_the_rest_is_drawn_as_ever(name, slimmer):
    size, options = NETWORKS[name]
    model = build_model(name, image_size=size, num_classes=3, **options)
    initialize(model, 5)
    plain = {variable.path: values(variable) for variable in model.variables}
    initialize(model, 5, "dirac")
    larger = larger_convolutions(model)
    assert len(larger) == NUM_LARGER[name]
    for layer in larger:
        kernel = values(layer.kernel)
        middle = kernel.shape[0] // 2
        passed = min(kernel.shape[2:])
        identity = np.eye(*kernel.shape[2:])[:, :passed]
        np.testing.assert_array_equal(kernel[middle, middle, :, :passed], identity)
        assert kernel[..., :passed].sum() == passed
        rest = plain[layer.kernel.path][..., passed:]
        np.testing.assert_array_equal(kernel[..., passed:], rest)
    changed = {layer.kernel.path for layer in larger}
    for variable in model.variables:
        if variable.path not in changed:
            np.testing.assert_array_equal(values(variable), plain[variable.path])


@pytest.mark.backend
def test_a_convolution_gives_its_input_first():
    options = {"widths": [8, 16], "blocks": [1, 1], "init": "dirac"}
    model = build_model("small_resnet", image_size=8, num_classes=3, **options)
    convolution = model.get_layer("stage2_block1_conv2")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype("float32")
    out = keras.ops.convert_to_numpy(convolution(x))
    np.testing.assert_allclose(out, x, rtol=1e-6)


def test_a_recipe_draws_them_by_its_seed(small_recipe):
    def network(seed, **options):
        recipe = small_recipe(model=WRN | options, train={"seed": seed})
        model = make_network(recipe, image_size=16, num_classes=3)
        return [values(variable) for variable in model.trainable_variables]

    first, again, other = network(1, init="dirac"), network(1, init="dirac"), network(2)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    plain = network(1)
    different = [not np.array_equal(one, two) for one, two in zip(first, plain, strict=True)]
    assert sum(different) == NUM_LARGER["wide_resnet"]
    assert not np.array_equal(plain[0], other[0])


def test_a_network_without_weights_can_have_them():
    with without_weights():
        model = build_model("resnet18", image_size=8, num_classes=3, init="dirac")
    assert count_parameters(model) > 10**7


@pytest.mark.parametrize(
    "name",
    [name for name in MODELS if not name.startswith(("resnet", "wide_resnet", "small_", "vgg"))],
)
def test_networks_of_other_layers_refuse_it(name):
    with pytest.raises(UserError, match=f'model.init is not an option of "{name}"'):
        build_model(name, image_size=64, num_classes=3, init="dirac")


def test_a_network_behind_a_band_refuses_it():
    base = {"name": "resnet18", "init": "dirac"}
    with pytest.raises(UserError, match=r"model\.base must be a table without init"):
        build_model("spectral", image_size=16, num_classes=3, factor=2, base=base)
