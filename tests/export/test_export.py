"""An exported model computes the model's logits in programs without this package."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from class_folders import damage, indexed
from conftest import ON_MACOS
from export_in_process import run_in_this_process
from keras import layers
from PIL import Image

from keras_imnet64 import export as module
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data.sources.finding import find_images
from keras_imnet64.export import child, compare, export
from keras_imnet64.export.messages import ExportRequest
from keras_imnet64.models import build_model
from keras_imnet64.models.contract import check_stated_classes, classifier_shape
from keras_imnet64.models.info import model_info
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import write_model_file
from keras_imnet64.records import ModelInfo

ROOT = Path(__file__).parents[2]
LOAD_PLAINLY = ROOT / "tests" / "models" / "load_plainly.py"
NAMES = ["hen", "naïve", "two\nlines", "\x1b[31mred", *"efghij"]
SERVE = """
import sys
sys.modules["keras"] = None  # cannot be imported
import numpy as np, tensorflow as tf
pixels, found = np.load(sys.argv[1])["pixels"], {}
for path in sys.argv[3:]:
    serve = tf.saved_model.load(path)
    specification = serve.signatures["serving_default"].structured_input_signature[1]["pixels"]
    assert specification.dtype == tf.uint8 and specification.shape[0] is None, specification
    parts = [serve.serve(part) for part in (pixels[:0], pixels[:1], pixels[1:])]
    found[path] = np.concatenate(parts)
    assert parts[0].shape == (0, found[path].shape[1]) and parts[0].dtype == tf.float32
    assert found[path].dtype == np.float32
assert sys.modules["keras"] is None
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model files small.keras, of ours, and bare.keras, of mixed precision and compiled."""
    folder = tmp_path_factory.mktemp("export")
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    initialize(model, 0)
    info = {"class_names": NAMES, "wnids": list("abcdefghij"), "image_size": 16}
    info |= {"dataset": "imagenet_resized/16x16", "of a later version": None}
    write_model_file(model, folder / "small.keras", info)

    keras.utils.set_random_seed(0)
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(1).integers(0, 256, (64, 16, 16, 3)))
    mixed = {"dtype": "mixed_bfloat16"}
    bare = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            normalization,
            layers.Conv2D(8, 3, activation="relu", **mixed),
            layers.BatchNormalization(synchronized=True, **mixed),
            layers.Reshape((14, 14 * 8), **mixed),
            layers.Bidirectional(layers.SimpleRNN(4, **mixed), **mixed),
            layers.Dense(5, **mixed),
        ]
    )
    bare.compile("adam", "mse")
    bare.save(folder / "bare.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), "uint8")
    np.savez(folder / "images.npz", pixels=pixels)
    return folder


@pytest.fixture(scope="module")
def exported(folder, data_dir, tmp_path_factory):
    """{(stem, format): what `export` returns}; the first steps make one as a user does."""
    name = "image.png" if ON_MACOS else "caf\udce9.png"  # which is not UTF-8
    image = tmp_path_factory.mktemp("images") / name
    Image.fromarray(np.load(folder / "images.npz")["pixels"][0]).save(image)
    small, bare = folder / "small.keras", folder / "bare.keras"
    with pytest.MonkeyPatch.context() as patch:
        run_in_this_process(patch)
        return {
            ("small", "saved_model"): export(small, "saved_model", data_dir=data_dir),
            ("small", "keras"): export(small, "keras", data_dir=data_dir),
            ("bare", "saved_model"): export(bare, "saved_model", images=[image]),
            ("bare", "keras"): export(bare, "keras"),
        }


def predict_logits(path, pixels):
    return load_model(path).predict(pixels, verbose=0).astype("float32")


def assert_same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_program_with_only_tensorflow_serves_the_saved_model(exported, folder, tmp_path):
    """In batches of 1 and 5, for both kinds of source."""
    paths = [exported[stem, "saved_model"]["path"] for stem in ("small", "bare")]
    inputs, outputs = folder / "images.npz", tmp_path / "found.npz"
    child = subprocess.run(
        [sys.executable, "-c", SERVE, inputs, outputs, *paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    found, pixels = np.load(outputs), np.load(inputs)["pixels"]
    assert_same(found[paths[0]], predict_logits(folder / "small.keras", pixels))
    assert_same(found[paths[1]], predict_logits(folder / "bare.keras", pixels), 0.05)  # bfloat16


@pytest.mark.slow  # each export loads its file so, as that of the command below
def test_a_program_with_only_keras_loads_the_keras_file(exported, folder):
    paths = [exported[stem, "keras"]["path"] for stem in ("small", "bare")]
    inputs = folder / "images.npz"
    child = subprocess.run(
        [sys.executable, LOAD_PLAINLY, inputs, *paths], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-3000:]
    found, pixels = json.loads(child.stdout.splitlines()[-1])["logits"], np.load(inputs)["pixels"]
    for path, stem, tolerance in zip(paths, ("small", "bare"), (1e-5, 0.05), strict=True):
        for output in found[path]:
            assert_same(output, predict_logits(folder / f"{stem}.keras", pixels), tolerance)


def test_the_command_makes_and_checks_a_keras_file(folder, data_dir, tmp_path):
    """As a user runs it: in processes of its own, the last without this package."""
    small, out = folder / "small.keras", tmp_path / "plain.keras"
    command = [sys.executable, ROOT / "cli.py", "export", small, "--format", "keras"]
    child = subprocess.run(
        [*command, "--out", out, "--data-dir", data_dir, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout)
    assert (result["path"], result["bytes"]) == (str(out), out.stat().st_size)
    assert result["compared"]["source"] == "imagenet_resized/16x16 validation"
    assert result["compared"]["largest_difference"] < 1e-5
    assert names_in(tmp_path) == ["plain.keras"]
    assert model_info(out) == model_info(small)
    pixels = np.load(folder / "images.npz")["pixels"]
    assert_same(predict_logits(out, pixels), predict_logits(small, pixels))


def test_the_keras_file_is_float32_without_compile_state(exported):
    path = exported["bare", "keras"]["path"]
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    assert "bfloat16" not in config
    assert '"synchronized": true' not in config
    assert not json.loads(config).get("compile_config")


def test_class_names_are_in_the_artefact(exported, folder):
    extra = Path(exported["small", "saved_model"]["path"], "assets.extra")
    lines = (extra / "classes.txt").read_text("utf-8").split("\n")
    assert lines == ["hen", "naïve", r"two\nlines", r"\x1b[31mred", *"efghij", ""]
    info = model_info(folder / "small.keras")
    assert json.loads((extra / "imnet64.json").read_text("utf-8")) == info
    assert model_info(exported["small", "keras"]["path"]) == info
    assert not Path(exported["bare", "saved_model"]["path"], "assets.extra").exists()
    assert [exported[stem, "keras"]["classes"] for stem in ("small", "bare")] == [10, None]


def test_the_result(exported, folder):
    result = exported["small", "saved_model"]
    assert json.loads(json.dumps(result)) == result
    assert result["path"] == str(folder / "small_saved_model")
    files = [file for file in Path(result["path"]).rglob("*") if file.is_file()]
    assert result["bytes"] == sum(len(file.read_bytes()) for file in files)
    compared = result["compared"]
    assert compared["images"] == 40  # all that the data set has
    assert compared["source"] == "imagenet_resized/16x16 validation"
    assert 0 <= compared["largest_difference"] < 1e-5
    assert exported["bare", "keras"]["path"] == str(folder / "bare_exported.keras")
    compared = exported["bare", "saved_model"]["compared"]
    assert (compared["images"], compared["source"]) == (1, "the images given")
    compared = exported["bare", "keras"]["compared"]
    assert compared["images"] == 64
    assert compared["source"].startswith("drawn images: the model does not state")


def test_nothing_but_the_artefacts_is_left(exported, folder):
    assert names_in(folder) == [
        "bare.keras",
        "bare_exported.keras",
        "bare_saved_model",
        "images.npz",
        "small.keras",
        "small_exported.keras",
        "small_saved_model",
    ]


def test_a_wrong_artefact_is_not_kept(folder, data_dir, tmp_path, monkeypatch, capfd):
    """A bias of the artefact is changed between the two steps, by 1e-3 of the logits' scale."""
    source = tmp_path / "small.keras"
    source.write_bytes((folder / "small.keras").read_bytes())
    run_in_this_process(monkeypatch)
    run_step = module.run_step

    def tamper(step, request, work, task):
        report = run_step(step, request, work, task)
        if step == "make":
            model = load_model(work / "exported.keras")
            scale = abs(np.load(work / "reference.npy")).max()
            model.get_layer("logits").bias.assign_add(np.eye(10)[3] * 1e-3 * scale)
            model.save(work / "exported.keras")
        return report

    monkeypatch.setattr(module, "run_step", tamper)
    with pytest.raises(RunFailed, match=r"differ by 1\.0e-03 of the model's largest"):
        export(source, "keras", data_dir=data_dir)
    assert names_in(tmp_path) == ["small.keras"]
    out, err = capfd.readouterr()
    said = rf"(exporting|checking the keras export of) {source}.* \.\.\.( \d+ s)?\.*"
    assert out == ""
    assert all(re.fullmatch(said, line) for line in err.splitlines()), err


def test_the_comparison():
    reference = np.array([[100.0, 99.9995, 0], [1, 2, 3]], "float32")  # a tie within 5e-6
    near = reference.copy()
    near[0, 1] += 0.001
    result = compare(reference, near)
    assert result.top1_changed_in_ties == 1
    assert result.largest_difference == pytest.approx(1e-5, rel=0.1)
    assert not result.constant
    assert compare(reference, reference).top1_changed_in_ties == 0
    assert compare(np.zeros((3, 2)), np.zeros((3, 2))).constant


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([[100.0, 99.99, 0.02]], "differ by 2.0e-04"),
        ([[99.992, 99.998, 0]], "another best class for 1 of 1"),  # each by 8e-5 of the scale
        ([[100.0, np.nan, 0]], "not finite"),
        ([[100.0, 99.99]], r"shape \[1, 2\]"),
    ],
)
def test_the_comparison_refuses(found, message):
    with pytest.raises(RunFailed, match=message):
        compare(np.array([[100.0, 99.99, 0]]), np.array(found))


def test_a_model_with_infinite_logits_is_not_compared():
    logits = np.array([[1.0, np.inf]])
    with pytest.raises(RunFailed, match="model's own logits"):
        compare(logits, logits)


def test_a_model_with_code_in_it_is_refused(tmp_path, monkeypatch):
    run_in_this_process(monkeypatch)
    path = tmp_path / "code.keras"
    doubled = layers.Lambda(lambda x: 2 * x)
    keras.Sequential([keras.Input((8, 8, 3)), doubled, layers.GlobalMaxPool2D()]).save(path)
    with pytest.raises(UserError, match="Lambda") as caught:
        export(path, "saved_model")
    assert not isinstance(caught.value, RunFailed)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == ["code.keras"]


def build(input_shape, *network):
    inputs = keras.Input(input_shape)
    outputs = [layer(inputs) for layer in network]
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs)


@pytest.mark.parametrize(
    ("shape", "network", "message"),
    [
        ((8, 8, 1), [layers.GlobalMaxPool2D], r"takes \[None, 8, 8, 1\]"),
        ((8,), [layers.Dense], r"takes \[None, 8\]"),
        ((8, 8, 3), [layers.ReLU], r"gives \[None, 8, 8, 3\]"),
        ((8, 8, 3), [layers.GlobalMaxPool2D] * 2, r"gives \[None, 3\] and \[None, 3\]"),
    ],
)
def test_models_that_do_not_classify_images_are_refused(shape, network, message):
    made = [layer(3) if layer is layers.Dense else layer() for layer in network]
    with pytest.raises(UserError, match=message):
        classifier_shape(build(shape, *made), "some.keras")


def test_a_wrong_number_of_class_names_is_refused():
    with pytest.raises(UserError, match="has 3 logits and states 2 class names"):
        check_stated_classes(ModelInfo(class_names=("a", "b")), 3, "some.keras")


def test_given_images_are_resized_to_the_model(tmp_path):
    colours = [(250, 10, 10), (10, 250, 10)]
    for number, colour in enumerate(colours):
        Image.new("RGB", (30, 40), colour).save(tmp_path / f"{number}.png")
    files = [str(file) for file in find_images([tmp_path])]
    request = ExportRequest("model.keras", "keras", files, data_dir=None, cache_dir=None)
    for given, size in [((16, 24), (16, 24)), ((None, None), (32, 32))]:
        chosen = child.choose_images(*given, ModelInfo(image_size=32), request)
        assert chosen.pixels.shape == (2, *size, 3)
        assert [tuple(image[0, 0]) for image in chosen.pixels] == colours
        assert (chosen.source, chosen.is_stand_in) == ("the images given", False)


def test_an_image_of_the_data_set_that_has_changed_is_named(tmp_path):
    file = damage(indexed(tmp_path, suffix=".png")["validation"], 0)
    info = ModelInfo(image_size=32, dataset="image_folder/toy")
    request = ExportRequest("m.keras", "keras", [], data_dir=str(tmp_path / "data"), cache_dir=None)
    with pytest.raises(RunFailed, match=f"^{re.escape(str(file))} is damaged, or has changed"):
        child.choose_images(32, 32, info, request)


def test_images_that_have_moved_are_replaced_by_drawn_ones(tmp_path):
    indexed(tmp_path)
    info = ModelInfo(image_size=32, dataset="image_folder/toy")
    request = ExportRequest("m.keras", "keras", [], data_dir=str(tmp_path / "data"), cache_dir=None)
    assert child.choose_images(32, 32, info, request).source == "image_folder/toy validation"
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    chosen = child.choose_images(32, 32, info, request)
    assert chosen.is_stand_in and re.match("drawn images: .* is missing", chosen.source)


def test_what_is_served_are_logits_of_a_softmax_too(tmp_path):
    pixels = keras.Input((16, 16, 3))
    pool = keras.layers.GlobalAveragePooling2D()(pixels)
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(pool))
    model.save(tmp_path / "m.keras")
    source = str(tmp_path / "m.keras")
    request = ExportRequest(source, "keras", [], data_dir=None, cache_dir=None)
    assert child.make(tmp_path, request).had_softmax
    images, logits = (np.load(tmp_path / f"{name}.npy") for name in ("images", "reference"))
    assert logits.min() < 0  # no probability is
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = model.predict(images, verbose=0)
    found = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def test_a_second_output_is_not_dropped(tmp_path):
    pixels = keras.Input((16, 16, 3))
    pool = keras.layers.GlobalAveragePooling2D()(pixels)
    outputs = [keras.layers.Softmax()(keras.layers.Dense(6)(pool)), keras.layers.Dense(3)(pool)]
    keras.Model(pixels, outputs).save(tmp_path / "m.keras")
    request = ExportRequest(str(tmp_path / "m.keras"), "keras", [], data_dir=None, cache_dir=None)
    with pytest.raises(UserError, match=r"gives \[None, 6\] and \[None, 3\]; one output"):
        child.make(tmp_path, request)


def test_one_image_is_compared_alone_and_in_a_batch(folder, tmp_path):
    """An artefact that takes one image at a time, or several only, would be found out."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    files = [str(tmp_path / "red.png")]
    source = str(folder / "small.keras")
    request = ExportRequest(source, "keras", files, data_dir=None, cache_dir=None)
    assert child.make(tmp_path, request).num_images == 1
    sizes = []

    def serve(pixels):
        sizes.append(len(pixels))
        return np.zeros((len(pixels), 10), "float32")

    logits = child.logits_of(serve, np.load(tmp_path / "images.npy"))
    assert sizes == [1, 2]
    assert logits.shape == np.load(tmp_path / "reference.npy").shape == (3, 10)


def test_the_default_target_in_a_run_folder(tmp_path):
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "model.keras").touch()
    for format, name in [("saved_model", "saved_model"), ("keras", "exported.keras")]:
        place = module.choose_target(
            tmp_path, tmp_path / "model.keras", module.FORMATS[format], None
        )
        assert place == tmp_path / name


def test_an_existing_target_is_left_as_it_is(folder, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    with pytest.raises(UserError, match=r"mine exists .* --out"):
        export(folder / "small.keras", "saved_model", out=target)
    assert names_in(tmp_path) == ["mine"]
    with pytest.raises(UserError, match=r"small\.keras exists"):
        export(folder / "small.keras", "keras", out=folder / "small.keras")


def test_wrong_targets_and_formats_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match='did you mean "saved_model"'):
        export(folder / "small.keras", "savedmodel")
    with pytest.raises(UserError, match=r"must end in \.keras"):
        export(folder / "small.keras", "keras", out=tmp_path / "model.h5")
    with pytest.raises(UserError, match=r"--out names a folder here, and \.keras is the end of a"):
        export(folder / "small.keras", "saved_model", out=tmp_path / "model.keras")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write into .*file .*--out"):
        export(folder / "small.keras", "keras", out=tmp_path / "file" / "x.keras")
    cut = tmp_path / "cut.keras"
    cut.write_bytes((folder / "small.keras").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"not a \.keras file"):
        export(cut, "keras")
    with pytest.raises(UserError, match="does not exist"):
        export(tmp_path / "nothing", "keras")


def test_the_death_of_a_child_is_reported_and_leaves_nothing(folder, tmp_path, monkeypatch):
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    for script, message in [
        ("kill -9 $$", r"broke off: it was ended by signal 9 \(Killed\), as happens where memory"),
        ("echo before >&2; echo OutOfDisk >&2; exit 3", "broke off: OutOfDisk"),
    ]:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        with pytest.raises(RunFailed, match=message):
            export(folder / "small.keras", "keras", out=tmp_path / "new" / "out.keras")
    assert names_in(tmp_path) == ["python"]


def test_working_folders_of_dead_processes_are_deleted(tmp_path):
    """Those of other targets and of living processes stay."""
    target = tmp_path / "out.keras"
    with module.working_folder(target) as work:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        dead = work.with_name(work.name.replace(f"@{os.getpid()}@", f"@{ended.pid}@"))
        other = dead.with_name(dead.name.replace("out", "other"))
        dead.mkdir()
        other.mkdir()
        with module.working_folder(target):
            assert work.is_dir()
            assert other.is_dir()
            assert not dead.exists()
