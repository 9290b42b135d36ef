"""The whitening first layer: its filters by hand, what it does to patches, where it has a place."""

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.load import check_loads_anywhere, load_model
from keras_imnet64.models.macs import count_macs, count_parameters
from keras_imnet64.models.options import Whitening
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.models.warm_start import warm_start
from keras_imnet64.models.whitening import filters, patch_moments, set_filters
from keras_imnet64.records import ModelInfo

NETWORKS = {
    "wide_resnet": (16, {"depth": 8, "width": 0.5}),
    "resnet18": (16, {"stem": "small"}),
    "small_resnet": (16, {"widths": [8, 8], "blocks": [1, 1]}),
}


def pictures(count=8, size=16):
    """Smooth pictures with noise, so that the eigenvalues of their patches differ."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(count, size // 4, size // 4, 3)).repeat(4, 1).repeat(4, 2)
    return 100 + 20 * smooth + 5 * rng.normal(size=(count, size, size, 3))


def network(name, **options):
    size, own = NETWORKS[name]
    return build_model(name, image_size=size, num_classes=3, **own | options)


def test_moments_by_hand():
    picture = np.zeros((1, 2, 3, 3))
    picture[0, :, :, 1] = [[1, 2, 3], [4, 5, 6]]  # two patches: 1 2 4 5 and 2 3 5 6
    moments = patch_moments([picture], 2)
    assert moments.shape == (12, 12)
    green = moments[1::3, 1::3]
    patches = np.array([[1, 2, 4, 5], [2, 3, 5, 6]])
    np.testing.assert_array_equal(green, patches.T @ patches / 2)
    assert moments.sum() == green.sum()


def test_moments_are_those_of_all_batches():
    images = pictures()
    parts = patch_moments(iter([images[:3], images[3:]]), 3)
    np.testing.assert_allclose(parts, patch_moments([images], 3), rtol=1e-12)


def test_filters_by_hand():
    """Independent numbers: each filter picks one, divided by the root of its mean square."""
    kernel = filters(np.diag(np.arange(12.0) ** 2), epsilon=0.25)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == "float32"
    expected = np.zeros((12, 12))
    for place, value in enumerate(range(11, -1, -1)):  # by falling eigenvalue
        expected[value, place] = 1 / np.sqrt(value**2 + 0.25)
    np.testing.assert_allclose(kernel[..., :12].reshape(12, 12), expected, rtol=1e-6)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_signs_do_not_depend_on_the_eigenvectors_signs(monkeypatch):
    moments = patch_moments([pictures()], 2)
    expected, eigh = filters(moments, 5e-4), np.linalg.eigh

    def flipped(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * np.where(np.arange(12) % 2, 1, -1)

    monkeypatch.setattr(np.linalg, "eigh", flipped)
    np.testing.assert_array_equal(filters(moments, 5e-4), expected)


def test_filters_are_those_of_airbench():
    """Its functions, as arXiv:2404.00498 prints them, on the same patches."""
    torch = pytest.importorskip("torch")
    images = torch.tensor(pictures().transpose(0, 3, 1, 2).copy())
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 3, 2, 2)
    flat = patches.reshape(len(patches), -1)
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat), UPLO="U")
    theirs = vectors.T.reshape(12, 3, 2, 2).flip(0)
    theirs = theirs / torch.sqrt(values.flip(0).view(-1, 1, 1, 1) + 5e-4)
    theirs = theirs.numpy().transpose(2, 3, 1, 0).reshape(12, 12)
    ours = filters(patch_moments([pictures()], 2), 5e-4)[..., :12].reshape(12, 12)
    signs = np.sign((theirs * ours).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * signs, rtol=1e-4, atol=1e-6)


@pytest.mark.backend
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_what_the_layer_gives_is_white(size, dtype):
    """Inside the picture, where no patch meets padding, the filters' outputs are independent."""
    model = network("small_resnet", whitening={"size": size}, dtype=dtype)
    set_filters(model, [pictures()], "imagenet", Whitening(size=size, epsilon=1e-9))
    layer = keras.Model(model.input, model.get_layer("whitening").output)
    out = layer.predict(pictures().astype("float32"), verbose=0).astype("float64")
    assert out.shape[1:] == (16, 16, 6 * size**2)
    begin, end = (0, -1) if size == 2 else (1, -1)
    white = out[:, begin:end, begin:end, : 3 * size**2].reshape(-1, 3 * size**2)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(3 * size**2), atol=2e-3)
    np.testing.assert_array_equal(out[..., 3 * size**2 :], -out[..., : 3 * size**2])


@pytest.mark.parametrize("name", NETWORKS)
def test_it_stands_in_front_of_the_stem_and_is_not_trained(name):
    with without_weights():
        model, plain = network(name, whitening={"size": 3}), network(name)
    layer = model.get_layer("whitening")
    assert type(layer) is keras.layers.Conv2D and not layer.trainable
    assert not any("whitening" in variable.path for variable in model.trainable_variables)
    shapes = {v.path: tuple(v.shape) for v in model.trainable_variables}
    shapes["stem_conv/kernel"] = (3, 3, 3, shapes["stem_conv/kernel"][3])
    assert shapes == {v.path: tuple(v.shape) for v in plain.trainable_variables}
    pixels, stem = 16 * 16, model.get_layer("stem_conv").output
    more = pixels * 54 * 27 + np.prod(stem.shape[1:]) * 9 * (54 - 3)
    assert count_macs(model) - count_macs(plain) == more
    assert count_parameters(model) - count_parameters(plain) == 9 * (54 - 3) * stem.shape[3]
    assert model.get_layer("features").output.shape == plain.get_layer("features").output.shape


@pytest.mark.backend
def test_its_file_holds_an_ordinary_convolution(tmp_path):
    model = network("small_resnet", whitening={}, dtype="mixed_bfloat16")
    set_filters(model, [pictures()], "imagenet", {})  # as `build_model` has been given it
    check_loads_anywhere(model, "it")
    plain = float32_copy(model)
    fill(plain, model)
    ship(plain, tmp_path / "model.keras", ModelInfo())
    loaded = load_model(tmp_path / "model.keras").get_layer("whitening")
    assert type(loaded) is keras.layers.Conv2D
    kernel = keras.ops.convert_to_numpy(model.get_layer("whitening").kernel)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded.kernel), kernel)
    expected = filters(
        patch_moments([(pictures() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]], 2), 5e-4
    )
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)

    other = network(
        "small_resnet", whitening={}
    )  # the weights behind it were trained on its output
    skipped, _ = warm_start(other, tmp_path / "model.keras", [])
    assert not [name for name in skipped if "whitening" in name]
    taken = keras.ops.convert_to_numpy(other.get_layer("whitening").kernel)
    np.testing.assert_array_equal(taken, kernel)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet18", {"stem": "imagenet"}, r"model\.whitening needs a stem of 3x3, \"small\" or"),
        ("alexnet", {}, r'model\.whitening is not an option of "alexnet"'),
        ("davit_tiny", {}, r'model\.whitening is not an option of "davit_tiny"'),
        ("vgg16", {}, r'model\.whitening is not an option of "vgg16"'),
        (
            "spectral",
            {"factor": 2, "base": {"name": "resnet18", "whitening": {"size": 2}}},
            r"model\.base must be a table without whitening",
        ),
        ("small_resnet", {"whitening": {"size": 4}}, r"model\.whitening\.size must be .* 2 to 3"),
        ("small_resnet", {"whitening": {"size": 2.0}}, r"whitening\.size must be a whole number"),
        ("small_resnet", {"whitening": {"epsilon": 0}}, r"whitening\.epsilon must be a number"),
        ("small_resnet", {"whitening": {"eps": 1}}, r"model\.whitening\.eps is not a known key"),
        ("small_resnet", {"whitening": True}, r"model\.whitening must be a table"),
    ],
)
def test_where_it_has_no_place_it_is_refused(name, options, sentence):
    options = ({} if name == "spectral" else {"whitening": {"size": 2}}) | options
    with pytest.raises(UserError, match=sentence), without_weights():
        build_model(name, image_size=64, num_classes=3, **options)
