"""Weights of torchvision and timm become model files; the weight files are made without torch."""

import hashlib
import json
import os

import keras
import ml_dtypes
import numpy as np
import pytest
from click.shell_completion import BashComplete
from first_steps import lasting_lines
from foreign_weights import pytorch_arrays, shapes_of, write_zeros
from PIL import Image
from safetensors.numpy import save_file

from keras_imnet64.cli import cli
from keras_imnet64.convert import ModelSettings, convert, parse_settings, reorder_logits
from keras_imnet64.convert.namings import NAMINGS, family_of
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data.images.views import View
from keras_imnet64.data.sources.archives import imagenet_class_names, imagenet_wnids
from keras_imnet64.models import build_model
from keras_imnet64.models.info import model_info, read_model_info
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import write_model_file
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.training.setup import training_setup

SIZE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), "uint8")


def initialized_model(name, image_size=SIZE, num_classes=10, **options):
    options = family_of(name).options | options  # as `convert` takes them
    model = build_model(name, image_size=image_size, num_classes=num_classes, **options)
    initialize(model, 0)
    return model


def logits_of(path, pixels=PIXELS):
    return keras.ops.convert_to_numpy(keras.saving.load_model(path)(pixels))


@pytest.fixture
def bfloat16_file(tmp_path_factory, slimmer):
    """A slim ResNet-18 of 1,000 classes in bfloat16, its arrays, and its logits."""
    path = tmp_path_factory.mktemp("theirs") / "resnet18.safetensors"
    model = initialized_model("resnet18", num_classes=1000)
    for variable in model.weights:
        rounded = keras.ops.convert_to_numpy(variable).astype(ml_dtypes.bfloat16)
        variable.assign(rounded.astype("float32"))
    arrays = pytorch_arrays(model, NAMINGS["resnet18"][0])
    save_file({name: a.astype(ml_dtypes.bfloat16) for name, a in arrays.items()}, path)
    return path, arrays, keras.ops.convert_to_numpy(model(PIXELS))


@pytest.fixture
def ten_classes(tmp_path_factory, slimmer):
    """A slim ResNet-18 of ten classes in float16."""
    path = tmp_path_factory.mktemp("theirs") / "ten.safetensors"
    arrays = pytorch_arrays(initialized_model("resnet18"), NAMINGS["resnet18"][0])
    save_file({name: array.astype("float16") for name, array in arrays.items()}, path)
    return path


# ------------------------------------------------------------------------------------- conversion


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 32, {}),
        ("resnet18", 32, {"stem": "small_pool", "anti_aliasing": True, "drop_path_rate": 0.1}),
        ("davit_tiny", 32, {"stem": "small", "window": 4}),
        ("alexnet", 96, {}),
    ],
)
def test_the_model_file_computes_the_logits_of_the_weights(name, size, options, slimmer, tmp_path):
    """At 96 pixels the first dense layer of AlexNet takes a map of 2x2."""
    model = initialized_model(name, size, **options)
    theirs = tmp_path / "theirs.safetensors"
    arrays = pytorch_arrays(model, NAMINGS[name][0])
    save_file(arrays, theirs)
    result = convert(name, theirs, image_size=size, out=tmp_path / "ours.keras", options=options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), "uint8")
    expected = keras.ops.convert_to_numpy(model(pixels))
    found = logits_of(tmp_path / "ours.keras", pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert result["tensors"] == len(arrays)
    assert result["num_classes"] == 10


def test_the_rows_of_imagenet_are_reordered_by_class_id(bfloat16_file, tmp_path):
    """Logit i of the new order is that of the same class in sorted order; bfloat16 is read too."""
    path, _, expected = bfloat16_file
    logits = {}
    for classes in ("imagenet", "imagenet64"):
        out = tmp_path / f"{classes}.keras"
        convert("resnet18", path, image_size=SIZE, out=out, classes=classes)
        logits[classes] = logits_of(out)
    ids, names = imagenet_wnids(), imagenet_class_names()
    tolerance = {"rtol": 0, "atol": 1e-5 * abs(expected).max()}
    np.testing.assert_allclose(logits["imagenet"], expected, **tolerance)
    for label in (0, 1, 2, 999):
        theirs = sorted(ids).index(ids[label])
        np.testing.assert_allclose(logits["imagenet64"][:, label], expected[:, theirs], **tolerance)
    assert sorted(ids).index("n02119789") == 278  # kit fox, as torchvision numbers it
    ordered, kept = (model_info(tmp_path / f"{c}.keras") for c in ("imagenet64", "imagenet"))
    assert (ordered["wnids"], ordered["class_names"]) == (ids, names)
    assert kept["wnids"] == sorted(ids)
    assert dict(zip(kept["wnids"], kept["class_names"], strict=True)) == dict(
        zip(ids, names, strict=True)
    )


def test_the_reordering_of_all_classes_is_the_published_one():
    head = keras.layers.Dense(1000)
    head.build((None, 2))
    head.bias.assign(np.arange(1000))
    reorder_logits(head, imagenet_wnids())
    rows = ",".join(str(int(row)) for row in keras.ops.convert_to_numpy(head.bias))
    assert hashlib.sha1(rows.encode()).hexdigest() == "aa8f5bd19f5d0a22a9449597c5cdead78d0d70d5"


def test_the_command_reports_its_result_which_predict_accepts(run, bfloat16_file, tmp_path):
    weights, arrays, _ = bfloat16_file
    out = tmp_path / "model.keras"
    arguments = ("convert", "--model", "resnet18", "--weights", weights, "--image-size", SIZE)
    arguments += ("--set", "normalization={mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]}")
    status, shown, err = run(*arguments, "--classes", "imagenet64", "--out", out, "--json")
    assert (status, shown.count("\n")) == (0, 1)
    assert lasting_lines(err) == []  # a slow machine may say what takes long
    assert json.loads(shown) == {
        "model": "resnet18",
        "image_size": SIZE,
        "num_classes": 1000,
        "parameters": sum(a.size for name, a in arrays.items() if "running_" not in name),
        "tensors": len(arrays),
        "classes": "imagenet64",
        "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "out": str(out),
        "prefix": "",
        "averaged": False,
        "other_networks": [],
        "left_out": [],
    }
    info = model_info(out)
    assert (info["image_size"], info["resize_filter"]) == (SIZE, "bilinear")
    assert info["converted_from"] == {
        "file": "resnet18.safetensors",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "prefix": "",
        "model": "resnet18",
        "model_options": {"stem": "imagenet"},
    }
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    status, shown, _ = run("predict", out, tmp_path / "red.png", "--json")
    assert status == 0
    (image,) = json.loads(shown)["images"]
    assert {guess["class_id"] for guess in image["top"]} < set(imagenet_wnids())


def test_images_are_shown_as_the_user_says(ten_classes, tmp_path):
    words = {"image_size": 32, "out": tmp_path / "m.keras"}
    for wrong, sentence in (
        ({"resize": 31}, "--resize must be a whole number from 32 to"),
        ({"resize_filter": "bicubik"}, 'did you mean "bicubic"'),
    ):
        with pytest.raises(UserError, match=sentence):
            convert("resnet18", ten_classes, **words, **wrong)
    convert("resnet18", ten_classes, **words, resize=36, resize_filter="bicubic")
    view = View.of(read_model_info(tmp_path / "m.keras"), 32)
    assert (view.resize, view.resize_filter) == (36, "bicubic")
    image = Image.effect_noise((50, 40), 90).convert("RGB")
    expected = image.resize((45, 36), Image.Resampling.BICUBIC).crop((6, 2, 38, 34))
    np.testing.assert_array_equal(view.show(image), np.asarray(expected))


def test_the_command_reports_which_network_it_took(run, slimmer, tmp_path):
    """The biases tell a training program's network and its average apart."""
    arrays = pytorch_arrays(initialized_model("resnet18"), NAMINGS["resnet18"][0])
    states = {
        "model.": arrays | {"fc.bias": np.arange(10, dtype="float32")},
        "model_ema.": arrays | {"fc.bias": np.arange(10, 20, dtype="float32")},
    }
    file = {
        prefix + name: array for prefix, state in states.items() for name, array in state.items()
    }
    save_file(file | {"criterion.weight": np.ones(10)}, tmp_path / "weights")
    command = ("convert", "--model", "resnet18", "--weights", tmp_path / "weights")
    command += ("--image-size", SIZE)
    status, _, err = run(*command, "--out", tmp_path / "averaged.keras")
    assert (status, err.splitlines()[:3]) == (
        0,
        [
            'The network is the one under "model_ema.", the averaged weights.',
            'The file also holds "model."; --prefix selects another network.',
            "Left out, because they are not part of the network: criterion.weight.",
        ],
    )
    out = tmp_path / "plain.keras"
    status, shown, _ = run(*command, "--out", out, "--prefix", "model", "--json")
    result = json.loads(shown)
    assert (status, result["prefix"], result["averaged"]) == (0, "model.", False)
    assert result["other_networks"] == ["model_ema."]
    assert result["left_out"] == ["criterion.weight"]
    assert model_info(out)["converted_from"]["prefix"] == "model."
    for path, first in ((tmp_path / "averaged.keras", 10), (out, 0)):
        bias = load_model(path).get_layer("logits").bias
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(bias), np.arange(first, first + 10)
        )


def test_the_command_warns_that_the_file_names_no_classes(run, ten_classes, tmp_path):
    arguments = ("convert", "--model", "resnet18", "--weights", ten_classes, "--image-size", SIZE)
    status, _, err = run(*arguments, "--out", tmp_path / "model.keras")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("The file names no classes")
    info = model_info(tmp_path / "model.keras")
    assert info.keys().isdisjoint({"wnids", "class_names"})


def test_training_reinitialises_a_head_whose_classes_are_unknown(
    ten_classes, small_recipe, data_dir, tmp_path, capsys
):
    """The file is converted for 64 pixels and to be trained on 16; both heads have ten classes."""
    theirs = tmp_path / "theirs.keras"
    convert("resnet18", ten_classes, image_size=64, out=theirs)
    (tmp_path / "small.toml").write_text(small_recipe(train={"epochs": 1}).to_toml())
    changes = ['model.name="resnet18"', 'model.stem="imagenet"', "loss.l2=0.0"]
    changes += ['model.normalization="imagenet"', f'train.initial_weights="{theirs}"']
    recipe = load_recipe(tmp_path / "small.toml", changes)
    network = training_setup(recipe, data_dir=data_dir).network
    refused = [line for line in capsys.readouterr().err.splitlines() if "not taken" in line]
    assert [line.split(": ", 1)[1] for line in refused] == [
        "logits/kernel: the file does not name its classes",
        "logits/bias: the file does not name its classes",
    ]
    for layer, is_taken in (("stem_conv", True), ("stage2_block1_conv2", True), ("logits", False)):
        kernels = [each.get_layer(layer).kernel for each in (load_model(theirs), network)]
        assert np.array_equal(*map(keras.ops.convert_to_numpy, kernels)) == is_taken


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("alexnet", "classifier.1.weight .*sizes 223 to 254"),
        ("vgg16", "classifier.0.weight .*sizes 224 to 255"),
    ],
)
def test_dense_layers_of_another_map_are_refused_with_the_sizes_that_fit(name, sizes, tmp_path):
    """The flattened map has 6x6 pixels in AlexNet and 7x7 in VGG-16."""
    weights = tmp_path / "weights.safetensors"
    write_zeros(weights, shapes_of(name))
    for image_size in (64, 4096):  # the last would take 275 GB
        with pytest.raises(UserError, match=f"does not fit {name} at {image_size} .*{sizes} fit"):
            convert(name, weights, image_size=image_size, out=tmp_path / "model.keras")


def test_a_model_file_with_a_wrong_record_of_its_conversion_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    wrong = {"converted_from": {"file": "a.pth", "sha256": 3}}
    write_model_file(model, tmp_path / "model.keras", wrong)
    with pytest.raises(UserError, match=r'its "converted_from\.sha256" is wrong'):
        model_info(tmp_path / "model.keras")


def test_settings_may_begin_with_model():
    lines = ['stem="small"', "model.drop_path_rate=0.1", 'normalization="imagenet"']
    options = {"stem": "small", "drop_path_rate": 0.1}
    assert parse_settings(lines) == ModelSettings(options, "imagenet")


def test_a_full_disk_leaves_nothing(ten_classes, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        convert("resnet18", ten_classes, image_size=SIZE, out=tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in NAMINGS if name.startswith("resnet")])
def test_the_shell_completes_models(name):
    complete = BashComplete(cli, {}, "keras-imnet64", "_KERAS_IMNET64_COMPLETE")
    found = [item.value for item in complete.get_completions(["convert", "--model"], name[:5])]
    assert name in found and "tiny_cnn1" not in found


# ------------------------------------------------------------------------------------- needs torch


def test_a_torch_file_and_a_safetensors_file_give_the_same_model(ten_classes, tmp_path):
    """The torch file is a checkpoint: with an optimizer, and each name begins with `module.`."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file

    state = {f"module.{n}": torch.from_numpy(a) for n, a in load_file(ten_classes).items()}
    state["module.bn1.num_batches_tracked"] = torch.tensor(7)
    state["module.conv1.weight"] = torch.nn.Parameter(state["module.conv1.weight"].float())
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, tmp_path / "theirs.pth")
    for weights in (ten_classes, tmp_path / "theirs.pth"):
        out = tmp_path / f"{weights.suffix[1:]}.keras"
        convert("resnet18", weights, image_size=SIZE, out=out)
    np.testing.assert_array_equal(
        logits_of(tmp_path / "pth.keras"), logits_of(tmp_path / "safetensors.keras")
    )
