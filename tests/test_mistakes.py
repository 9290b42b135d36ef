"""Every mistake of one long list: its sentence, its exit status, and nothing left behind.

Each row of the table arranges a mistake in a folder of its own and gives the command line. The
command must end with the row's status and one line on standard error that says so, print nothing
else, and leave the folder as it was.
"""

import codecs
import fcntl
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import png_that_claims, write_images
from export_in_process import run_in_this_process
from foreign_weights import shapes_of, write_zeros
from PIL import Image
from safetensors.numpy import save
from write_forms import (
    write_csv,
    write_npz_batches,
    write_parquet,
    write_pickle_batches,
    write_webdataset,
)

from keras_imnet64.backend.devices import Devices
from keras_imnet64.convert.weight_formats import LEGACY_TORCH_MAGIC
from keras_imnet64.data.sources.archives import write_archives
from keras_imnet64.models import build_model
from keras_imnet64.models.ship import ship
from keras_imnet64.recipe.loading import read_content
from keras_imnet64.records import ModelInfo
from keras_imnet64.sweep.axes import parse_axis
from keras_imnet64.sweep.folder import SweepFolder, begin
from keras_imnet64.sweep.grid import record_of
from keras_imnet64.sweep.plan import plan_grid
from keras_imnet64.training import preview  # noqa: F401 (as FIRST_READ)

FIRST_READ = codecs.lookup("utf-8-sig")  # a user that we become may not read it later
FIT = "fit --recipe small.toml --out run"
EVALUATE = "evaluate {} --dataset imagenet_resized/16x16"
PROGRESS = re.compile(
    r"(packing|checking|looking at|listing|reading|indexing|loading|exporting) .*\.\.\."
    r"|[\d,]+ classes .*: .*|(note|ignored): .*|starting .* \.\.\.+"
    r"|.* \.\.\.( [\d,]+/[\d,]+)? \d+ s\.*"  # anything, on a machine where it takes long
)
MISTAKES = {}


def mistake(sentence, status=2, command=None):
    """Enter a function `place -> command line` into the table; it may return None for `command`."""

    def enter(arrange):
        MISTAKES[arrange.__name__] = (arrange, command, sentence, status)
        return arrange

    return enter


def simply(name, command, sentence, status=2):
    """Enter a mistake that lies in the command line alone."""
    MISTAKES[name] = (lambda place: None, command, sentence, status)


@pytest.fixture(scope="module")
def material(tmp_path_factory, small_recipe):
    """What mistakes are made of: data, a recipe, a model file, an image."""
    folder = tmp_path_factory.mktemp("material")
    write_images(folder / "data")
    (folder / "small.toml").write_text(small_recipe().to_toml())
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    ship(model, folder / "model.keras", ModelInfo(dataset="imagenet_resized/16x16"))
    Image.new("RGB", (20, 20), "red").save(folder / "red.jpg")
    return folder


@pytest.fixture
def place(material, monkeypatch):
    """A folder with the material, to be in and to make a mistake in; open to every user."""
    path = Path(tempfile.mkdtemp(prefix="mistake-")).resolve()
    shutil.copytree(material, path, dirs_exist_ok=True)
    path.chmod(0o755)
    monkeypatch.chdir(path)
    monkeypatch.setenv("TFDS_DATA_DIR", "data")
    store = path / "data" / "packed" / "imagenet_resized_16x16-unverified" / "train"
    place = SimpleNamespace(path=path, store=store, patch=monkeypatch, at_end=[])
    yield place
    for undo in place.at_end:
        undo()
    monkeypatch.chdir("/")
    shutil.rmtree(path)


def contents(folder):
    """{name: bytes, or None for what is no file} of everything below."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in found}


def test_each_mistake(name, place, run):
    arrange, command, sentence, status = MISTAKES[name]
    command = arrange(place) or command
    before = contents(place.path)
    found, out, err = run(*command.split())
    assert (found, out) == (status, ""), err
    *progress, line = err.splitlines()
    assert all(PROGRESS.fullmatch(p) for p in progress), err
    assert line.startswith("Error: ")
    assert re.search(sentence, line), line
    assert len(line) < 600
    assert contents(place.path) == before


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        slow = {"bench_network": pytest.mark.slow}  # its child loads TensorFlow; see test_rounds
        names = [pytest.param(name, marks=slow.get(name, ())) for name in MISTAKES]
        metafunc.parametrize("name", names)


# ------------------------------------------------------------------------------- names and numbers

simply("recipe", "fit --recipe demmo", r'did you mean "demo"\?')
simply("key", f"{FIT} --set train.epoch=3", r'did you mean "epochs"\?')
simply("section", f"{FIT} --set trian.epochs=3", r'did you mean "train"\?')
simply("bare_key", f"{FIT} --set lr=0.1", r'did you mean "optimizer.learning_rate"\?')
simply("bare_word", f"{FIT} --set data.dataset=shapes", "write --set 'data.dataset=\"shapes\"'")
simply("bare_true", f"{FIT} --set train.remat=True", "write --set 'train.remat=true'")
simply(
    "item", f"{FIT} --set augment.7.padding=2", "augment.7 names no table: augment has ., counted"
)
simply("setting_as_option", f"{FIT} --epochs 3", "are given as --set train.epochs=VALUE")
simply("recipe_as_argument", "fit demo", "a recipe is given as --recipe demo")
simply("short_setting_as_option", f"{FIT} --lr 3", "given as --set optimizer.learning_rate=VALUE")
simply("resume_as_option", f"{FIT} --resume", "command that began a run also resumes it")
simply("model", f'{FIT} --set model.name="wide_resnt"', r'did you mean "wide_resnet"\?')
simply("model_option", f"{FIT} --set model.dept=8", r'did you mean "depth"\?')
simply(
    "init_without_convolutions",
    f'{FIT} --set model={{name="davit_tiny",init="dirac"}}',
    'model.init is not an option of "davit_tiny"',
)
simply(
    "whitening_of_a_large_stem",
    f'{FIT} --set model={{name="resnet18",stem="imagenet",whitening={{size=2}}}}',
    'model.whitening needs a stem of 3x3, "small" or "small_pool"; received stem "imagenet"',
)
simply(
    "whitening_without_a_stem",
    f'{FIT} --set model={{name="vgg16",whitening={{size=2}}}}',
    'model.whitening is not an option of "vgg16"',
)
simply(
    "depth_of_other_stages",
    f"{FIT} --set model.stages=3",
    "model.depth must be 4 .* 6 x blocks with 3 stages .*; received 6; .* fits is 10",
)
simply(
    "stages_without_blocks",
    f'{FIT} --set model={{name="small_resnet",widths=[32,64]}}',
    'model "small_resnet" needs as many blocks as widths, .*; received 4 and 2',
)
simply("dataset", f'{FIT} --set data.dataset="tiny_imagenett"', r'did you mean "tiny_imagenet"\?')
simply(
    "dataset_by_another_name",
    f'{FIT} --set data.dataset="ImageNet-64"',
    r'did you mean "imagenet_resized/64x64"\?',
)
simply(
    "listing_of_another_name",
    "recipes --dataset imagenet32",
    r'did you mean "imagenet_resized/32x32"\?',
)
simply("split", "evaluate model.keras --split test", r'no split "test"')
simply("optimizer", f'{FIT} --set optimizer.name="adamv"', r'did you mean "adamw"\?')
simply("schedule", f'{FIT} --set schedule.name="cosin"', r'did you mean "cosine"\?')
BY_EPOCH = "with by_epoch, also in warmup_epochs; received 0.5"
simply("warmup_by_epoch", f"{FIT} --set schedule={{warmup_epochs=0.5,by_epoch=true}}", BY_EPOCH)
simply(
    "constant_by_epoch",
    f'{FIT} --set schedule={{name="constant",by_epoch=true}}',
    "has the same rate in all steps of an epoch: set by_epoch = false",
)
simply(
    "step_by_epoch",
    f'{FIT} --set schedule={{name="step",epochs=[1,1.5],by_epoch=true}}',
    'schedule "step" counts whole epochs with by_epoch; received 1.5 in epochs',
)
simply(
    "no_warmup",
    f"{FIT} --set schedule.warmup_learning_rate=0.001",
    "has no warm-up that could begin at warmup_learning_rate: .*; received 0.001",
)
simply("no_warmup_to_span", f"{FIT} --set schedule.spans_warmup=true", "no warm-up to span")
simply(
    "warmup_that_falls",
    f"{FIT} --set schedule.warmup_epochs=1 --set schedule.warmup_learning_rate=0.06",
    "warmup_learning_rate must be at most the peak, 0.05; received 0.06",
)
simply("operation", f'{FIT} --set augment=[{{op="pad_crp"}}]', r'did you mean "pad_crop"\?')
simply(
    "layer",
    f'{FIT} --set augment=[{{layer="keras.layers.RandomFlp"}}]',
    r'did you mean "RandomFlip"\?',
)
simply("layer_of_code", f'{FIT} --set augment=[{{layer="os.system"}}]', "public name of a Keras")
simply("backend", f"{FIT} --backend tensorflw", r'did you mean "tensorflow"\?')
simply("devices", f"{FIT} --devices 99", r'"99" asks for more than the 1 that exist')
simply("devices_in_words", f"{FIT} --devices two", r'such as 0,2; received "two"')
simply("no_virtual_devices", f"{FIT} --virtual-devices 0", "must be 1 to 64; received 0")
simply("coordinator", f"{FIT} --coordinator 10.0.0.1:1234", "add --num-processes N and --process")
MACHINES = f"{FIT} --coordinator 10.0.0.1:1234 --num-processes 2"
simply("process_id", f"{MACHINES} --process-id 2", "must be 0 to 1, for 2 processes; received 2")
simply("num_processes", f"{FIT} --num-processes 0 --process-id 0", "at least 1; received 0")
BRANCHES = MACHINES.replace("small.toml", "spectral_tiny20_sub4")
simply("branches_together", f"{BRANCHES} --process-id 0", "leave out --coordinator, --num-proc")
simply("port", f"{MACHINES} --process-id 0 --coordinator host", 'HOST:PORT, .*; received "host"')
simply(
    "machines_under_tensorflow",
    f"{MACHINES} --process-id 0",
    "several machines train one run under jax only, .* 2 processes under tensorflow: add --backend",
)
simply("format", "export model.keras --format savedmodel", r'did you mean "saved_model"\?')
simply("command", "evalute model.keras", "Did you mean 'evaluate'")
simply("option", "predict model.keras red.jpg --topp 3", "No such option '?--topp'?")
simply("no_argument", "predict model.keras", "Missing argument 'IMAGE...'")
simply("text_for_a_number", f'{FIT} --set train.epochs="3"', 'whole number .*; received "3"')
simply("flag_for_a_number", f"{FIT} --set train.epochs=true", "whole number .*; received true")
simply("too_small", f"{FIT} --set data.batch_size=0", "from 1 to 1,000,000,000; received 0")
simply("too_large", f"{FIT} --set loss.label_smoothing=1.5", "at least 0 and below 1; received 1.5")
simply("not_finite", f"{FIT} --set optimizer.learning_rate=inf", "finite")
simply(
    "huge_number",
    f"{FIT} --set train.seed=1{'0' * 30}",
    "train.seed must be a number of at most 63 bits",
)
simply("top", "predict model.keras red.jpg --top 0", "--top must be a positive")
simply("no_equals", f"{FIT} --set train.epochs", "--set takes key=value")
simply("not_toml", f"{FIT} --set model.name=wide_resnet", "--set takes key=value")
simply("batch_size", f"{FIT} --set data.batch_size=97", "at most 96.*received 97")
simply("steps", f"{FIT} --set data.steps_per_epoch=7", "at most 6.*received 7")
simply("classes", f"{FIT} --set data.classes=2000", "at most 1000")
simply(
    "views",
    f'{FIT} --set evaluation.views="miror"',
    r'evaluation\.views must be one of "none", "mirror", "shift"; received "miror"',
)
simply(
    "views_of_images_of_any_size",
    f'{FIT} --set data.dataset="imagenet2012" --set data.image_size=16 '
    '--set evaluation.views="mirror"',
    "evaluation.views is for images of one size, and those of imagenet2012 have any size",
)
simply(
    "views_and_ten_crops",
    f'{FIT} --set evaluation.views="shift" --set evaluation.ten_crop=true',
    'evaluation.views and evaluation.ten_crop exclude each other.*received "shift" and true',
)
simply(
    "views_and_ten_crops_of_a_model",
    "evaluate model.keras --views mirror --ten-crop",
    'views "mirror" and ten crops exclude each other',
)
simply("views_of_a_model", "evaluate model.keras --views miror", "'miror' is not one of")
simply(
    "normalization_of_255",
    f"{FIT} --set model.normalization={{mean=[124,116,104],std=[58,57,57]}}",
    "pixels from 0 to 1, so divide both by 255; received a mean of up to 124",
)
SIZES = f"{FIT} --set train.sizes="
simply("sizes_form", f"{SIZES}[8,16]", r"train.sizes.0 must be .*share, pixels.*; received 8")
simply("sizes_none", f"{SIZES}[]", r"a list such as \[\[0.0, 32\]")
simply("sizes_first", f"{SIZES}[[0.1,8],[0.5,16]]", r"begin with the share 0\.0.*received 0\.1")
simply("sizes_share", f"{SIZES}[[0.0,8],[1.0,16]]", r"from 0\.0 to below 1\.0; received 1\.0")
simply("sizes_order", f"{SIZES}[[0,8],[0.6,12],[0.5,16]]", r"shares that grow.*0\.6 and then 0\.5")
simply("sizes_shrink", f"{SIZES}[[0,12],[0.4,8],[0.7,16]]", "sizes that grow.*12 and then 8")
simply("sizes_too_small", f"{SIZES}[[0,4],[0.5,16]]", "whole numbers of pixels from 8; received 4")
simply("sizes_not_whole", f"{SIZES}[[0,8.5],[0.5,16]]", "whole numbers of pixels.*received 8.5")
simply("sizes_above", f"{SIZES}[[0,8],[0.5,17]]", "name at most 16 pixels, .*; received 17")
simply("sizes_all_above", f"{SIZES}[[0,32]]", "name at most 16 pixels, .* the model; received 32")
simply("sizes_no_epoch", f"{SIZES}[[0,8],[0.9,16]]", "leaves no epoch for 16 pixels.*epochs is 3;")
OTHER = f"{SIZES}[[0,8],[0.5,16]] --set model.name="
simply("sizes_dense", f'{OTHER}"tiny_cnn1"', 'tiny_cnn1, whose layer "pool" flattens a map')
simply(
    "sizes_stride",
    f'{OTHER}"resnet18" --set model.stem="imagenet"',
    "8 pixels are too few for resnet18, .* of 1: choose a",
)
simply(
    "sizes_spectral",
    f'{OTHER}"spectral" --set model.factor=2 --set model.base={{name="resnet18"}}',
    "train.sizes does not work with a spectral network",
)


@mistake('alexnet, whose layer "pool" flattens a map', command="recipes show listed.toml")
def sizes_of_alexnet(place):
    list_sizes(place, "alexnet", 8)


@mistake('tiny_cnn1, whose layer "pool" flattens a map', command="recipes show listed.toml")
def sizes_of_a_tiny_cnn(place):
    list_sizes(place, "tiny_cnn1", 32)


@mistake("davit_tiny does not work on 8 pixels", command="recipes show listed.toml")
def sizes_of_a_davit(place):
    list_sizes(place, "davit_tiny", 8, 'stem = "full_15x15"')


def list_sizes(place, network, size, option=""):
    """Writes a recipe of 64 pixels that `fit` refuses, so that `recipes show` has no costs."""
    (place.path / "listed.toml").write_text(
        f"""
        [model]
        name = "{network}"
        {option}
        [data]
        dataset = "imagenet_resized/64x64"
        batch_size = 16
        [optimizer]
        name = "sgd"
        learning_rate = 0.05
        [train]
        epochs = 2
        sizes = [[0.0, {size}], [0.5, 64]]
        """
    )


STATISTICS = f"{FIT} --set train.remeasure_statistics="
simply("statistics_many", f"{STATISTICS}7", "at most 6, the batches of an epoch; received 7")
simply("holdout", f"{FIT} --set data.holdout=96", "must leave images to train on")
simply("depth", f"{FIT} --set model.depth=9", "received 9; the nearest that fits is 8")
simply("run_name", "fit --recipe small.toml --name ../up", "one folder below saved_models")
simply("run_name_and_out", f"{FIT} --name run", "--name and --out both name the folder")
simply("run_name_above", "fit --recipe small.toml --name ..", "one folder below saved_models")
simply(
    "preview_out",
    "data preview --recipe small.toml --out sheet.gif",
    r"must be a file whose name ends in \.png",
)
GROUPS = f"{FIT} --set optimizer.groups=[{{{{{{}}}}}}]"
simply(
    "group_of_nothing",
    GROUPS.format('variables="^had/"'),
    r'groups\.0\.variables must match the path of .*; received "\^had/"',
)
simply("group_of_everything", GROUPS.format('variables="/"'), "must not match every trainable var")
simply("group_of_no_pattern", GROUPS.format('variables="("'), 'regular expression; received "\\("')
simply("group_without_pattern", GROUPS.format(""), r"optimizer\.groups\.0\.variables is missing")
simply(
    "group_without_decay",
    GROUPS.format('variables="beta",weight_decay_factor=0.5') + " --set loss.l2=0.0",
    "weight_decay_factor has no decay to multiply: set .* or loss.l2; received 0.5",
)
simply(
    "group_of_variables_without_decay",
    GROUPS.format('variables="beta",weight_decay_factor=0.5'),
    "groups.0.weight_decay_factor has no decay to multiply: .*; received 0.5 for .beta., such as",
)
simply(
    "group_that_changes_nothing",
    GROUPS.format('variables="beta"'),
    "groups.0 changes nothing, .* no group below it matches its variables; received .beta.",
)
simply(
    "lookahead",
    f"{FIT} --set optimizer.lookahead.step=3",
    r'optimizer\.lookahead\.step is not a known key; did you mean "steps"\?',
)
simply(
    "lookahead_that_never_moves",
    f"{FIT} --set optimizer.lookahead.steps=19",
    r"optimizer\.lookahead\.steps must be at most 18, the updates of the run.*; received 19",
)
simply(
    "lookahead_that_may_never_move",
    f"{FIT} --set optimizer.lookahead.steps=13 --set train.early_stopping=1 --set data.holdout=2",
    "steps must be at most 10, the updates before train.early_stopping may end the run, or its",
)
simply(
    "threshold",
    f"{FIT} --set loss.target_threshold=0.2",
    'options of loss.name = "binary_cross_entropy"; received "cross_entropy"',
)
simply(
    "threshold_above_targets",
    f'{FIT} --set loss={{name="binary_cross_entropy",label_smoothing=0.5,target_threshold=0.6}}',
    "must lie between the smoothed targets, 0.0005 and 0.5; received 0.6",
)
simply(
    "repeats",
    f'{FIT} --set data.repeats=3 --set data.mirror="both"',
    'data.mirror must be "random" or "none"; received "both"',
)
simply(
    "frozen_layer_that_is_not_there",
    f'{FIT} --set train.freeze=["stage2"]',
    r'received "stage2": did you mean "stage1"\?',
)
simply(
    "everything_frozen",
    f'{FIT} --set train.freeze=["stem","stage1","final","logits"]',
    r"train\.freeze must leave a layer that trains; received \[",
)
simply(
    "frozen_in_a_word",
    f'{FIT} --set train.freeze="stem"',
    'freeze must be a list of names such as .* or "backbone"; received "stem"',
)
simply(
    "frozen_statistics",
    f'{FIT} --set train.freeze="backbone" --set train.remeasure_statistics=1',
    "train.remeasure_statistics has no use for wide_resnet, whose batch normalisation is frozen",
)
simply("average_last", f"{FIT} --set train.average_last=4", "at most the 3 epochs .*; received 4")
simply(
    "two_averages",
    f"{FIT} --set train.average_last=2 --set train.ema=0.9",
    "two averages, of which one can ship; received 2 and 0.9",
)
simply(
    "average_of_an_unknown_end",
    f"{FIT} --set train.average_last=2 --set train.early_stopping=2 --set data.holdout=16",
    "train.early_stopping ends a run earlier; received 2 and 2",
)
simply(
    "average_over_two_sizes",
    f"{FIT} --set train.sizes=[[0.0,8],[0.5,16]] --set train.average_last=2",
    "average_last must be at most 1, the epochs of the last size of train.sizes; received 2",
)


SPECTRAL = (
    'fit --recipe small.toml --out run --set model={{name="spectral",factor={},band={},'
    'base={{name="wide_resnet",depth=6,width=1}}}}'
)
simply("factor", SPECTRAL.format(3, '"all"'), "model.factor must divide the 16 pixels.*received 3")
simply("factor_of_one", SPECTRAL.format(1, '"all"'), "model.factor must be .*received 1")
simply("band", SPECTRAL.format(2, 4), "band must be .*received 4")
simply("band_in_words", SPECTRAL.format(2, '"one"'), 'whole number .* or "all"; received .one')
simply("no_branches", f"{FIT} --branch 0", "recipe small has no branches")
simply("branch", SPECTRAL.format(2, '"all"') + " --branch 4", "must be from 0 to 3; received 4")
simply("jobs_of_one_run", f"{FIT} --jobs 2", "--jobs is for training all branches")
simply("no_jobs", f"{FIT} --jobs 0", "0 is not in the range")
simply("ensemble_of_nothing", "ensemble nowhere", "nowhere has no branches")
simply("ensemble_of_a_file", "ensemble model.keras", "model.keras has no branches")
simply("fusion", "ensemble run --fusion mean", "'mean' is not one of 'avg', 'geo', 'fit'")
simply("branches_in_words", "ensemble run --branches 0,two", "numbers such as 0,1,3; received")


@mistake("divisible by the 3 devices; received 16, the nearest that works is 15", command=FIT)
def batch_that_the_devices_do_not_divide(place):
    three = Devices("tensorflow", "cpu", ("CPU:0", "CPU:1", "CPU:2"))
    place.patch.setattr("keras_imnet64.backend.devices.take_devices", lambda *_, **__: three)


@mistake("backend torch is not installed; `pip install torch`", command=f"{FIT} --backend torch")
def backend_that_is_not_installed(place):
    place.patch.delitem(sys.modules, "keras")
    place.patch.setattr("keras_imnet64.backend.devices.find_spec", lambda name: None)


@mistake('KERAS_MAX_EPOCHS ends training early.*received "1": `unset KERAS', command=FIT)
def a_limit_of_epochs(place):
    place.patch.setenv("KERAS_MAX_EPOCHS", "1")


@mistake("KERAS_MAX_STEPS_PER_EPOCH ends every", command=EVALUATE.format("model.keras"))
def a_limit_of_steps(place):
    place.patch.setenv("KERAS_MAX_STEPS_PER_EPOCH", "1")


@mistake("received TF_CONFIG with 2 workers: .* --coordinator a:1 --num-processes 2", command=FIT)
def several_workers(place):
    place.patch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}}')


@mistake(
    'KERAS_IMNET64_PROGRAMS_MB must be a positive whole number .*"lots": set .*_DIR=off',
    command=FIT,
)
def a_bound_that_is_no_number(place):
    place.patch.setenv("KERAS_IMNET64_PROGRAMS_MB", "lots")


@mistake(
    "programs cannot be emptied .*run the same command again", status=1, command="programs clean"
)
def programs_that_cannot_be_removed(place):
    place.patch.setenv("KERAS_IMNET64_PROGRAMS_DIR", str(place.path / "programs"))
    (place.path / "programs" / "machine" / ("0" * 64 + ".program")).mkdir(parents=True)


@mistake(
    "NVIDIA_TF32_OVERRIDE changes the precision.*`unset NVIDIA_TF32_OVERRIDE`",
    command="export model.keras --format keras --out out.keras",
)
def another_precision(place):
    place.patch.setenv("NVIDIA_TF32_OVERRIDE", "0")


@mistake(
    "cannot be downloaded .*no network.*get Imagenet8_train_npz.zip.*with --source",
    command="data prepare imagenet_resized/8x8 --data-dir data",
)
def no_network(place):
    name = "keras_imnet64.data.sources.imagenet_resized.unavailable_reason"
    place.patch.setattr(name, lambda sizes: "there is no network")


# ----------------------------------------------------------------------------------- data and files

simply(
    "data_missing",
    "fit --recipe tiny20_wrn --out run",
    r"is not prepared in .*`python cli.py data prepare tiny_imagenet --source",
)
simply("drawn_data", "data prepare shapes --source .", "takes no --source")
simply("unverified_nothing", "data prepare tiny_imagenet --allow-unverified", "needs --source")
simply(
    "source_missing",
    "data prepare tiny_imagenet --source no.zip",
    "--source no.zip does not exist; check the path",
)
simply(
    "archives_missing", "data prepare imagenet_resized/8x8 --source .", "train_npz.zip is missing"
)
simply(
    "downsample_small",
    "data downsample imagenet_resized/16x16 --size 8 --out small",
    "has images of 16 x 16 pixels already",
)
simply(
    "downsample_size",
    "data downsample imagenet2012 --size 4 --out small",
    "whole number from 8 to 256; received 4",
)
simply(
    "downsample_filter",
    "data downsample imagenet2012 --size 64 --out small --filter bix",
    r'did you mean "box"\?',
)
simply(
    "downsample_nothing",
    "data downsample imagenet2012 --size 64 --out small",
    "is not prepared in .*data prepare imagenet2012 --source",
)
simply(
    "downsampled_source",
    "data prepare downsampled/pets_64x64 --source .",
    "run `python cli.py data downsample DATASET --size 64 --out DIR`",
)
simply("downsampled_name", "data info downsampled/pets", "needs the name of a set and a size")
simply("clean_unknown", "data clean shape", r'did you mean "shapes"\?')
simply("skip_corrupt", "data prepare shapes --skip-corrupt", "leave out --skip-corrupt")
simply("no_image", "predict model.keras small.toml", "small.toml is not an image")
simply("no_such_image", "predict model.keras no.jpg", "no.jpg does not exist")
simply("no_images", "predict model.keras data", "data holds no image")
simply("two_forms", "predict model.keras red.jpg --csv --json", "give one")
simply("per_class_folder", EVALUATE.format("model.keras") + " --per-class data", r"ends in \.csv")
simply(
    "per_class_nowhere",
    EVALUATE.format("model.keras") + " --per-class a/b.csv",
    "a/b.csv cannot be written",
)


@mistake(
    r"zeros\.jpg is not a whole image: Premature end of JPEG file; pass --skip-corrupt",
    command="data prepare image_folder/pets --source pets --data-dir data",
)
def zeros_at_the_end_of_a_image(place):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8"))
    for name in ("cat/whole.jpg", "cat/zeros.jpg", "dog/a.jpg", "dog/b.jpg"):
        file = place.path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise.save(file)
    file = place.path / "pets" / "cat" / "zeros.jpg"
    file.write_bytes(file.read_bytes()[:-1024] + bytes(1024))


def archives(place):
    """Archives of 8 pixels in the official layout, unverified."""
    folder = place.path / "archives"
    folder.mkdir()
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (4, 8, 8, 3), "uint8"), np.arange(4)
    train, validation = folder / "Imagenet8_train_npz.zip", folder / "Imagenet8_val_npz.zip"
    write_archives([train], validation, part, part)
    return folder, train, validation


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def rewritten(archive, member, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr(member, content)


PREPARE_8 = "data prepare imagenet_resized/8x8 --source archives --allow-unverified"


@mistake("Imagenet8_train_npz.zip is not a whole zip", command=PREPARE_8)
def archive_cut_short(place):
    _, train, _ = archives(place)
    train.write_bytes(train.read_bytes()[:-100])


@mistake("Imagenet8_val_npz.zip: val_data.npz is damaged", command=PREPARE_8)
def npz_damaged(place):
    *_, validation = archives(place)
    rewritten(validation, "val_data.npz", b"PK\x03\x04 and then nothing")


@mistake("labels 1..1000; received 1..1001", command=PREPARE_8)
def label_out_of_range(place):
    *_, validation = archives(place)
    content = npz(data=np.zeros((2, 192), "uint8"), labels=np.array([1, 1001]))
    rewritten(validation, "val_data.npz", content)


@mistake("val_data.npz .*labels.npy holds Python objects, which are not read", command=PREPARE_8)
def npz_with_a_pickle(place):
    *_, validation = archives(place)
    objects = np.array([print, print], object)
    rewritten(validation, "val_data.npz", npz(data=np.zeros((2, 192), "uint8"), labels=objects))


@mistake("val_data.npz would grow from .* to 104,857,600 bytes", command=PREPARE_8)
def bomb_in_an_archive(place):
    *_, validation = archives(place)
    rewritten(validation, "val_data.npz", bytes(100 * 2**20))


@mistake("are not the published ones", command=PREPARE_8.removesuffix(" --allow-unverified"))
def archives_of_something_else(place):
    archives(place)


FORMS = f"{PREPARE_8.replace('archives', 'forms')}"
WNIDS = ["n02119789", "n02100735"]  # labels 0 and 1 of ImageNet64
SMALL = np.zeros((2, 8, 8, 3), "uint8"), [0, 1]


class Harm:
    """Pickled, it makes a file when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@mistake("val_data is a pickle that asks for pathlib.*, which may run code", command=FORMS)
def pickle_that_runs_code(place):
    write_pickle_batches(place.path / "forms", SMALL, SMALL)
    content = {"data": Harm(), "labels": [1, 2]}
    (place.path / "forms/val_data").write_bytes(pickle.dumps(content))


@mistake("val_data is not a whole pickle of arrays", command=FORMS)
def pickle_cut_short(place):
    write_pickle_batches(place.path / "forms", SMALL, SMALL)
    file = place.path / "forms/val_data"
    file.write_bytes(file.read_bytes()[:-200])


@mistake(r"train_data_batch_2.npz must hold labels 1\.\.1000; received 0\.\.1", command=FORMS)
def two_numberings_of_labels(place):
    write_npz_batches(place.path / "forms", SMALL, SMALL)
    flat = np.zeros((2, 192), "uint8")
    np.savez(place.path / "forms/train_data_batch_2.npz", data=flat, labels=np.array([0, 1]))


@mistake("forms is not complete: train_data_batch_2.npz is missing", command=FORMS)
def batch_missing(place):
    images = np.zeros((3, 8, 8, 3), "uint8"), [0, 1, 2]
    write_npz_batches(place.path / "forms", images, SMALL, batches=3)
    (place.path / "forms/train_data_batch_2.npz").unlink()


@mistake("is not imagenet_resized/8x8: train has 2 images, not 1,281,167; pass --allow-unv")
def batches_of_something_else(place):
    write_npz_batches(place.path / "forms", SMALL, SMALL)
    return FORMS.removesuffix(" --allow-unverified")


def small_jpegs(*sizes):
    contents = []
    for size in sizes:
        buffer = io.BytesIO()
        Image.new("RGB", size, "green").save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    return contents


def parquet(place, names=WNIDS, sizes=((8, 8), (8, 8)), labels=(0, 1), shards=2):
    folder = place.path / "forms"
    write_parquet(folder, "train", small_jpegs(*sizes), labels, names, shards)
    write_parquet(folder, "validation", small_jpegs((8, 8)), [0], names)
    return folder / "train-00001-of-00002.parquet"


@mistake("00001-of-00002.parquet is not a Parquet file, whatever its suffix says", command=FORMS)
def parquet_of_text(place):
    parquet(place).write_text("image,label\n")


@mistake("list the classes in two label orders: .* get all shards from one place", command=FORMS)
def two_label_orders(place):
    shard = parquet(place)
    write_parquet(place.path / "other", "train", small_jpegs((8, 8)), [0], WNIDS[::-1])
    (place.path / "other/train-00000-of-00001.parquet").rename(shard)
    (place.path / "other").rmdir()


@mistake(
    'forms does not say which classes.*received "kit fox", "setter"; add classes', command=FORMS
)
def names_that_prove_nothing(place):
    parquet(place, ["kit fox", "setter"])


@mistake(r"00001-of-00002.parquet: row 0 has the label 2, where 0\.\.1 are possible", command=FORMS)
def label_beyond_the_classes(place):
    parquet(place, labels=(0, 2))


@mistake("00001-of-00002.parquet: row 0 is 9 x 8 pixels, not 8 x 8", command=FORMS)
def picture_of_another_size(place):
    parquet(place, sizes=((8, 8), (9, 8)))


@mistake("of the 3 shards for train, number 1 is missing", command=FORMS)
def shard_missing_in_the_middle(place):
    parquet(place, sizes=[(8, 8)] * 3, labels=[0, 1, 0], shards=3)
    (place.path / "forms/train-00001-of-00003.parquet").unlink()


def webdataset(place, keys):
    contents = small_jpegs((8, 8), (8, 8))
    write_webdataset(place.path / "forms", "train", contents, [0, 1], keys=keys)
    write_webdataset(place.path / "forms", "val", contents, [0, 1])


@mistake(r"train-000000.tar holds \.\./a.jpg, which is a link or points outside", command=FORMS)
def tar_that_climbs(place):
    webdataset(place, ["../a", "b"])


@mistake(r'received "0", "1"; add classes.txt, with the class id of label 0', command=FORMS)
def numbers_without_classes(place):
    webdataset(place, ["a", "b"])


@mistake("labels.csv: row 3 names ../b.jpg, which points outside the folder of the CSV")
def csv_that_climbs(place):
    write_csv(place.path / "labels.csv", [("red.jpg", "cat"), ("../b.jpg", "dog")])
    return "data prepare image_folder/pets --source labels.csv"


@mistake("--splits is for class folders, but labels.csv is CSV")
def splits_of_a_csv(place):
    write_csv(place.path / "labels.csv", [("red.jpg", "cat")])
    return "data prepare image_folder/pets --source labels.csv --splits none"


simply(
    "remote_nowhere",
    "data prepare image_folder/pets --source memory://nowhere",
    "memory://nowhere has no files: check the address",
)
simply(
    "remote_unknown",
    "data prepare image_folder/pets --source carrier-pigeon://nowhere",
    "carrier-pigeon://nowhere cannot be opened: .*carrier-pigeon",
)


def tiny(place, **files):
    """A zip in Tiny ImageNet's layout with two classes; files put over it."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(buffer, "JPEG")
    content = {
        "wnids.txt": b"n01443537\nn02124075\n",
        "words.txt": b"n01443537\tgoldfish\n",
        "val/val_annotations.txt": b"val_0.JPEG\tn01443537\t0\t0\t9\t9\n",
        "val/images/val_0.JPEG": buffer.getvalue(),
        "train/n02124075/images/n02124075_0.JPEG": buffer.getvalue(),
        "train/n01443537/images/n01443537_0.JPEG": buffer.getvalue(),
        "train/n01443537/images/n01443537_1.JPEG": buffer.getvalue(),
    }
    with zipfile.ZipFile(place.path / "tiny.zip", "w") as archive:
        for name, data in (content | files).items():
            archive.writestr(name, data)


PREPARE_TINY = "data prepare tiny_imagenet --source tiny.zip --allow-unverified"
TRAIN_1 = "train/n01443537/images/n01443537_1.JPEG"


@mistake(f"{TRAIN_1} .*--skip-corrupt", command=PREPARE_TINY)
def jpeg_damaged(place):
    tiny(place, **{TRAIN_1: b"\xff\xd8 no image"})


@mistake(f"{TRAIN_1} is 65 x 64 pixels", command=PREPARE_TINY)
def jpeg_of_another_size(place):
    buffer = io.BytesIO()
    Image.new("RGB", (65, 64)).save(buffer, "JPEG")
    tiny(place, **{TRAIN_1: buffer.getvalue()})


@mistake(r'member that points outside it: "../../evil.JPEG"', command=PREPARE_TINY)
def zip_that_climbs(place):
    tiny(place, **{"../../evil.JPEG": b"x"})


@mistake("is not Tiny ImageNet", command=PREPARE_TINY.removesuffix(" --allow-unverified"))
def zip_of_something_else(place):
    tiny(place)


def images(place, *names):
    for name in names:
        (place.path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.path / "red.jpg", place.path / "pets" / name)


PREPARE_PETS = "data prepare image_folder/pets --source pets"


@mistake("pets holds images of one class, cat; two classes or more", command=PREPARE_PETS)
def one_class(place):
    images(place, "cat/1.jpg", "cat/2.jpg")


@mistake(r"2 of 6 files below .*pets cannot be used: cat/3\.HEIC is a HEIC", command=PREPARE_PETS)
def images_left_out(place):
    images(place, "cat/1.jpg", "cat/2", "dog/1.jpg", "dog/2.jpg_large")
    (place.path / "pets/cat/3.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (place.path / "pets/dog/3.jpg").symlink_to("nowhere")


@mistake(r"1 of 5 .*: loose\.jpg lies in no class folder; .*--skip-corrupt", command=PREPARE_PETS)
def image_of_no_class(place):
    images(place, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "loose.jpg")


@mistake("pass --splits none if train is a class", command=PREPARE_PETS)
def train_may_be_a_class(place):
    images(place, "train/steam/1.jpg", "train/diesel/1.jpg", "car/1.jpg")


@mistake("--splits A,B; if they are classes, pass --splits none", command=PREPARE_PETS)
def splits_of_unknown_names(place):
    images(place, *(f"{split}/{name}/1.jpg" for split in "AB" for name in ("cat", "dog")))


@mistake('--splits takes "none", or the names of two', command=f"{PREPARE_PETS} --splits val,cat")
def splits_that_are_not_there(place):
    images(place, "cat/1.jpg", "dog/1.jpg")


@mistake("pass .*pets/images as --source, or pass --splits none if every", command=PREPARE_PETS)
def folders_about_images(place):
    images(place, "images/cat/1.jpg", "images/dog/1.jpg")
    (place.path / "pets/annotations").mkdir()


@mistake("pets has train and val: leave", command=f"{PREPARE_PETS} --validation-share 0.2")
def a_share_of_what_is_split(place):
    images(place, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg")


simply("splits_of_another_set", "data prepare shapes --splits none", "--splits is for image_folder")


@mistake(
    r"1 of 2 files below pets cannot be used: notes is not", command="predict model.keras pets"
)
def file_beside_images(place):
    images(place, "1.jpg")
    (place.path / "pets/notes").write_text("words")


@mistake(
    "broken.jpg is not a whole image.*--skip-corrupt",
    command="predict model.keras red.jpg broken.jpg",
)
def image_cut_short(place):
    (place.path / "broken.jpg").write_bytes((place.path / "red.jpg").read_bytes()[:300])


@mistake("bomb.png .*3,600,000,000 pixels", command="predict model.keras bomb.png")
def image_that_is_a_bomb(place):
    (place.path / "bomb.png").write_bytes(png_that_claims(60_000, 60_000))


# ----------------------------------------------------------------------------------------- a store


def edit_meta(place, **fields):
    file = place.store / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@mistake(r"meta.json has kind and format version \('raw', 99\)", command=FIT)
def store_of_another_version(place):
    edit_meta(place, format_version=99)


@mistake(r"images.npy has [\d,]+ bytes where meta.json says", command=FIT)
def store_cut_short(place):
    os.truncate(place.store / "images.npy", 5000)


@mistake("labels.npy holds other labels than meta.json counts", command=FIT)
def store_that_contradicts_itself(place):
    counts = json.loads((place.store / "meta.json").read_text())["class_counts"]
    edit_meta(place, class_counts=counts[::-1][:-1] + [counts[0] + 1])


@mistake("labels.npy holds other labels than meta.json counts", command=FIT)
def store_with_a_label_out_of_range(place):
    labels = np.load(place.store / "labels.npy")
    labels[0] = -1
    np.save(place.store / "labels.npy", labels)


@mistake(r"process \d+ is packing", command=FIT)
def store_that_is_being_written(place):
    shutil.rmtree(place.store.parent)
    sleeper = subprocess.Popen(["sleep", "600"])
    place.at_end.append(sleeper.kill)
    name = f".imagenet_resized_16x16-unverified.writing@{os.uname().nodename}@{sleeper.pid}@abc"
    (place.store.parent.parent / name).mkdir()


# ----------------------------------------------------------------------------------- a run's folder


@mistake("is a file; choose another", command=FIT)
def run_folder_that_is_a_file(place):
    (place.path / "run").write_text("")


@mistake("is not empty and holds no run", command=FIT)
def run_folder_of_something_else(place):
    (place.path / "run").mkdir()
    (place.path / "run" / "thesis.tex").write_text("")


@mistake(r"another recipe \(train.epochs: 5 -> 3\)", command=FIT)
def run_folder_of_another_recipe(place):
    (place.path / "run").mkdir()
    text = (place.path / "small.toml").read_text().replace("epochs = 3", "epochs = 5")
    (place.path / "run" / "recipe.toml").write_text(text)


@mistake("is finished and is never overwritten", command=FIT)
def run_that_is_finished(place):
    (place.path / "run").mkdir()
    shutil.copy("small.toml", "run/recipe.toml")
    (place.path / "run" / "metrics.json").write_text("{}")


@mistake(r"another process is working in run \(pid 4711 on there, since noon\)", command=FIT)
def run_that_another_process_trains(place):
    (place.path / "run" / "checkpoints").mkdir(parents=True)
    file = open(place.path / "run" / ".lock", "w")  # noqa: SIM115
    file.write("pid 4711 on there, since noon")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    place.at_end.append(file.close)


@mistake("cannot be used as a run folder", command="fit --recipe small.toml --out small.toml/run")
def run_folder_below_a_file(place):
    pass


@mistake("not finished", command="evaluate run")
def run_that_is_not_finished(place):
    (place.path / "run").mkdir()
    shutil.copy("small.toml", "run/recipe.toml")


@mistake("run in run is not finished: run `fit` again", command="report run")
def report_of_half_a_run(place):
    run_that_is_not_finished(place)
    shutil.copy("model.keras", "run/model.keras")


@mistake("metrics.json is missing or damaged", command="report run")
def report_of_damaged_metrics(place):
    report_of_half_a_run(place)
    (place.path / "run" / "metrics.json").write_text("{}")


def finished_run(place, name, dataset="imagenet_resized/16x16", wnids=("n1", "n2")):
    """A run folder whose files say that it is finished."""
    folder = place.path / name
    folder.mkdir()
    shutil.copy("small.toml", folder / "recipe.toml")
    options = {"depth": 6, "width": 0.5, "stages": 1}
    network = build_model("wide_resnet", image_size=16, num_classes=2, **options)
    ship(network, folder / "model.keras", ModelInfo(wnids=wnids, dataset=dataset))
    scores = {"top1": 1.0, "top5": 2.0, "loss": 3.0, "count": 4}
    metrics = {"dataset": dataset, "split": "validation", "verified": True, "model.keras": scores}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@mistake("first is of imagenet_resized/16x16 and other of shapes: a report shows runs on")
def report_of_two_data_sets(place):
    finished_run(place, "first")
    finished_run(place, "other", dataset="shapes")
    return "report first other --out page.html"


@mistake(r"first and other have other classes \(2 and 2 ids, or another order\)")
def report_of_other_classes(place):
    finished_run(place, "first")
    finished_run(place, "other", wnids=("n2", "n1"))
    return "report first other --out page.html"


@mistake("page.pdf must be a file whose name ends in .html")
def report_in_another_format(place):
    finished_run(place, "first")
    return "report first --out page.pdf"


@mistake("a report shows each run once; received first first")
def report_of_a_run_twice(place):
    finished_run(place, "first")
    return "report first first"


@mistake("run/README.md exists and is never overwritten", command="report run --card")
def card_over_a_file(place):
    finished_run(place, "run")
    (place.path / "run" / "README.md").write_text("mine")


simply("card_of_two_runs", "report a b --card", "--card describes one run; received 2")
simply("licence_without_card", "report a --license mit", "--license is for a card; received mit")
simply("report_of_nothing", "report nowhere", "nowhere is not a run folder: it has no recipe.toml")
simply("report_of_a_model", "report model.keras", "model.keras is not a run folder")
simply(
    "predictions_suffix",
    "evaluate model.keras --predictions found.txt",
    "found.txt must be a file whose name ends in .parquet or .csv",
)


@mistake(
    "exists and is never overwritten", command="export model.keras --format keras --out old.keras"
)
def export_over_a_file(place):
    shutil.copy("model.keras", "old.keras")


# -------------------------------------------------------------------- folders of others, full disks


def frozen(place):
    """A folder that cannot be written to, for the commands of the table below."""
    tiny(place)
    (place.path / "frozen").mkdir(mode=0o555)
    if os.geteuid() == 0:  # whom no permission stops
        os.seteuid(65534)
        place.at_end.insert(0, lambda: os.seteuid(0))


DENIED = "Permission denied.*frozen belongs to user "
for what, command in {
    "run": "fit --recipe small.toml --out frozen/run",
    "data_set": "data prepare tiny_imagenet --source tiny.zip --allow-unverified --data-dir frozen",
    "sheet": "data preview --recipe small.toml --out frozen/sheet.png",
    "table": EVALUATE.format("model.keras") + " --per-class frozen/classes.csv",
    "export": "export model.keras --format keras --out frozen/exported.keras",
    "model": "convert --model resnet18 --weights w.pth --image-size 9 --out frozen/model.keras",
}.items():
    MISTAKES[f"read_only_folder_for_a_{what}"] = (frozen, command, DENIED, 2)


@mistake("run.*Permission denied.*belongs to user ", command=FIT)
def run_of_another_user(place):
    (place.path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy("small.toml", "run/recipe.toml")
    (place.path / "run" / ".lock").touch(mode=0o444)
    frozen(place)


@mistake("needs [0-9,]+ bytes.*where [0-9,]+ are free", command="data prepare shapes --data-dir d")
def disk_without_room_for_data(place):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    place.patch.setattr("keras_imnet64.data.stores.packing.shutil.disk_usage", lambda folder: usage)


@pytest.fixture
def small_disk(place):
    """A file system of 100 kB, and the means to enlarge it."""
    folder = place.path / "disk"
    folder.mkdir()

    def mount(options):
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    if shutil.which("mount") is None or not mount("size=100k"):
        pytest.skip("mounting a small file system is not allowed here")
    place.at_end.append(lambda: subprocess.run(["umount", str(folder)], check=True))
    return SimpleNamespace(path=folder, enlarge=lambda: mount("remount,size=50m"))


def test_a_disk_that_fills_stops_a_run_which_goes_on_once_there_is_room(small_disk, run):
    command = f"{FIT} --out disk/run --json".split()
    status, out, err = run(*command)
    assert (status, out) == (1, "")
    assert re.search(
        "^Error: No space left on device.*the same command resumes from them$", err, re.MULTILINE
    )
    assert "Traceback" not in err
    assert small_disk.enlarge()
    status, out, _ = run(*command)
    assert (status, json.loads(out)["epochs"]) == (0, 3)
    assert not list(small_disk.path.rglob("*.writing*"))


def test_a_disk_that_fills_leaves_nothing_of_an_export(small_disk, run, monkeypatch):
    run_in_this_process(monkeypatch)
    command = "export model.keras --format saved_model --out disk/served"
    status, out, err = run(*command.split())
    assert (status, out) == (1, "")
    assert re.search("^Error: exporting .*No space left on device", err, re.MULTILINE)
    assert list(small_disk.path.iterdir()) == []


# -------------------------------------------------------------------------------------- model files

simply("no_such_model", "predict nowhere.keras red.jpg", "nowhere.keras does not exist")
simply("folder_that_is_no_run", "evaluate data", "is not a run folder")


@mistake(
    r"model.keras takes images of 16 x 16",
    command="evaluate model.keras --dataset imagenet_resized/32x32",
)
def model_of_another_size(place):
    write_images(place.path / "data", size=32)


@mistake("other.keras is not a .keras file", command=EVALUATE.format("other.keras"))
def file_that_is_no_model(place):
    (place.path / "other.keras").write_text("no model")


@mistake(r"keras.models.load_model\(", command="predict model.h5 red.jpg")
def model_in_hdf5(place):
    (place.path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")


@mistake("`python cli.py convert` makes one", command="evaluate resnet50.pth --dataset shapes")
def weights_of_pytorch(place):
    (place.path / "resnet50.pth").write_bytes(b"PK")


@mistake("model.keras is not a .keras file", command="export model.keras --format saved_model")
def model_cut_short(place):
    os.truncate("model.keras", 4000)


@mistake("lambda.keras has a Lambda layer", command="predict lambda.keras red.jpg")
def model_with_a_lambda(place):
    layers = [keras.Input((16, 16, 3)), keras.layers.Lambda(lambda x: x[:, 0, 0])]
    keras.Sequential(layers).save("lambda.keras")


@mistake("other.keras needs the package someones", command=EVALUATE.format("other.keras"))
def model_of_another_package(place):
    with zipfile.ZipFile("model.keras") as old, zipfile.ZipFile("other.keras", "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1] |= {"module": "someones.layers", "class_name": "Blur"}
                content = json.dumps(config)
            new.writestr(member, content)


@mistake(
    "train.initial_weights: none.keras is not a file",
    command=f'{FIT} --set train.initial_weights="none.keras"',
)
def initial_weights_that_are_not_there(place):
    pass


TAKE = FIT + ' --set model={{name="file",path="{}"}}'
simply("file_that_is_not_there", TAKE.format("none.keras"), "model.path: none.keras is not a file")
simply(
    "file_of_anything",
    TAKE.format("red.jpg"),
    "model.path: red.jpg is not a .keras file: its name must end in .keras",
)
simply(
    "file_with_another_normalisation",
    TAKE.format("model.keras") + ' --set model.normalization="dataset"',
    'model.normalization must be "file"; received "dataset"',
)
simply(
    "file_and_initial_weights",
    TAKE.format("model.keras") + ' --set train.initial_weights="model.keras"',
    "both name a file with the weights: remove train.initial_weights",
)
simply(
    "another_file_than_recorded",
    f'{FIT} --set model={{name="file",path="model.keras",sha256="{"0" * 64}"}}',
    "model.keras is not the file that the recipe was made for, whose SHA-256 is 000000000000",
)


@mistake(
    r"model.path: other.keras takes images of 32 x 32, .* set data.image_size = 32",
    command=TAKE.format("other.keras"),
)
def file_of_another_size(place):
    model = build_model("wide_resnet", image_size=32, num_classes=10, depth=6, stages=1, width=0.5)
    ship(model, place.path / "other.keras", ModelInfo())


@mistake(
    "model.path: first is a run folder; name the model file in it, such as first/model.keras",
    command=TAKE.format("first"),
)
def file_that_is_a_run(place):
    (place.path / "first").mkdir()
    shutil.copy(place.path / "model.keras", place.path / "first")


simply(
    "freeze_a_list_of_the_backbone",
    f'{FIT} --set train.freeze=["backbone"]',
    'received "backbone": for all layers but logits, write train.freeze = "backbone", not a list',
)
simply(
    "features_in_no_file",
    "embed model.keras red.jpg --out features.txt",
    r"features.txt must be a file whose name ends in \.parquet, \.csv, \.npz",
)
simply("features_of_nothing", "embed model.keras nowhere --out f.npz", "nowhere")
simply(
    "neighbours_of_no_number",
    EVALUATE.format("model.keras") + " --knn 0",
    "--knn must be a number of neighbours from 1 to 96, the training images",
)
simply(
    "neighbours_and_views",
    EVALUATE.format("model.keras") + " --knn 5 --views mirror",
    "--knn scores one view of each validation image: leave out --split",
)
simply(
    "neighbours_and_predictions",
    EVALUATE.format("model.keras") + " --knn 5 --predictions p.csv",
    "--knn scores one view of each validation image: leave out .*--predictions",
)


# -------------------------------------------------------------------------- weights from elsewhere

CONVERT = "convert --model {} --weights {} --image-size {} --out {}"
GIVEN = CONVERT.format("resnet18", "w.safetensors", 32, "new.keras")


def weights_file(name, sentence, command=GIVEN, of="resnet18", dtype="F16", content=None, **dtypes):
    """Enter a file of weights that is not what the command takes it for."""

    def arrange(place):
        if content is None:
            write_zeros("w.safetensors", shapes_of(*of.split()), dtype, **dtypes)
        else:
            (place.path / "w.safetensors").write_bytes(content)

    MISTAKES[name] = (arrange, command, sentence, 2)


def header(shape, kind="F32", held=4):
    """A safetensors file that claims a shape and has so many bytes."""
    claim = {
        "dtype": kind,
        "shape": shape,
        "data_offsets": [0, 4 * np.prod(shape, dtype=object)],
    }
    text = json.dumps({"fc.weight": claim}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(held)


def named(*names):
    """A safetensors file of tensors of one number."""
    return save(dict.fromkeys(names, np.ones(1, "float32")))


for name, command, sentence in (
    ("network", CONVERT.format("resnet81", "w.pth", 32, "m.keras"), 'did you mean "resnet18"'),
    (
        "network_of_ours_alone",
        CONVERT.format("tiny_cnn1", "w.pth", 32, "m.keras"),
        "neither torchvision nor timm",
    ),
    ("no_pixels", CONVERT.format("resnet18", "w.pth", 0, "m.keras"), "1 to 4,096; received 0"),
    ("fewer_pixels", CONVERT.format("resnet18", "w.pth", -1, "m.keras"), "received -1"),
    ("many_pixels", CONVERT.format("resnet18", "w.pth", 10**20, "m.keras"), "1 to 4,096"),
    ("pixels_in_words", CONVERT.format("resnet18", "w.pth", "big", "m.keras"), "valid integer"),
    ("out", CONVERT.format("resnet18", "w.pth", 32, "m.h5"), r"--out must end in \.keras"),
    ("out_nowhere", CONVERT.format("resnet18", "w.pth", 32, "a/m.keras"), "choose a folder that"),
    ("out_that_is_there", CONVERT.format("resnet18", "w.pth", 32, "model.keras"), "never overwr"),
    ("weights_missing", GIVEN, "w.safetensors cannot be read: No such file"),
    (
        "weights_of_keras",
        CONVERT.format("resnet18", "model.keras", 32, "m.keras"),
        "model.keras is a model file of Keras already",
    ),
    ("weights_classes", f"{GIVEN} --classes imagnet", 'be "imagenet" or "imagenet64"; received'),
    ("weights_option", f'{GIVEN} --set stemm="small"', r'model.stemm is .*did you mean "stem"\?'),
    ("weights_stem", f'{GIVEN} --set stem="smal"', "model.stem must be one of.*received .smal"),
    ("weights_name", f'{GIVEN} --set name="vgg16"', 'model.name is not an option of "resnet18"'),
    ("weights_rate", f"{GIVEN} --set drop_path_rate=inf", "a finite number; received inf"),
    (
        "weights_mean",
        f'{GIVEN} --set normalization="mean_image"',
        "measured on a data set, and the",
    ),
    (
        "weights_std",
        f"{GIVEN} --set normalization={{mean=[0,0,0],std=[1,1,0]}}",
        "a number above 0; received 0",
    ),
    ("weights_set", f"{GIVEN} --set stem=small", "--set takes key=value"),
):
    simply(f"convert_{name}", command, sentence)

weights_file("weights_empty", "w.safetensors is empty; fetch", content=b"")
weights_file("weights_of_text", r'is a text \("weights: many', content=b"weights: many\n" * 9)
weights_file(
    "weights_that_git_points_to",
    "is a pointer of Git LFS to a file, not the file; `git lfs pull` fetches it",
    content=b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n",
)
weights_file("weights_of_a_web_page", "is a web page or an error", content=b"<html>404</html>")
weights_file("weights_of_hdf5", "is an HDF5 file, as Keras writes", content=b"\x89HDF\r\n\x1a\n")
weights_file("weights_that_claim", "file not fully covered", content=header([10**5, 10**5]))
weights_file("weights_beyond_count", "not a whole safetensors", content=header([2**40, 2**40]))
weights_file("weights_cut_short", "not a whole safetensors", content=header([10, 512], held=99))
weights_file("weights_without_a_network", "no classifier fc.weight", content=header([1]))
weights_file("weights_of_one_class", "has 1 classes in fc.weight", content=header([1, 1]))
weights_file(
    "weights_lacking", "lacks tensors of resnet18: conv1.weight", content=header([2, 2], held=16)
)
weights_file(
    "weights_of_integers", "holds conv1.weight as I64; float64,", **{"conv1.weight": "I64"}
)
weights_file(
    "weights_of_another_network",
    r"layer1.0.conv1.weight is \[64, 64, 1, 1\], \[64, 64, 3, 3\] here.*--set stem",
    of="resnet50",
)
weights_file(
    "weights_left_over", "resnet18 does not have: layer1.2.bn1.bias, .* more", of="resnet34"
)
weights_file(
    "weights_and_whitening",
    "model.whitening is for networks that are trained here",
    command=f"{GIVEN} --set whitening={{size=2}}",
)
weights_file(
    "weights_of_another_stem",
    r"conv1.weight is \[64, 3, 7, 7\], \[64, 3, 3, 3\] here",
    command=f'{GIVEN} --set stem="small"',
)
weights_file(
    "weights_of_ten_classes", "has 10: leave it out", command=f"{GIVEN} --classes imagenet"
)
weights_file(
    "weights_of_another_map",
    "does not fit alexnet at 64 pixels: classifier.1.weight .*; image sizes 223 to 254 fit",
    command=CONVERT.format("alexnet", "w.safetensors", 64, "new.keras"),
    of="alexnet",
)


TWO_NETWORKS = named(
    *(f"{encoder}.{name}" for encoder in "qk" for name in ("conv1.weight", "fc.weight"))
)
weights_file(
    "weights_of_two_networks",
    'holds 2 networks, under "k.", "q."; choose with --prefix',
    content=TWO_NETWORKS,
)
weights_file(
    "weights_of_no_such_prefix",
    'holds no networks under "z."; --prefix may be "k.", "q."',
    command=f"{GIVEN} --prefix z",
    content=TWO_NETWORKS,
)
weights_file(
    "weights_that_lack_in_one_network",
    r'w.safetensors \(under "q."\) has no classifier fc.weight \[classes, features\]',
    command=f"{GIVEN} --prefix q",
    content=TWO_NETWORKS,
)
weights_file(
    "weights_of_another_head",
    'has a network under "backbone." without a classifier backbone.fc.weight',
    content=named("backbone.conv1.weight", "head.weight"),
)
weights_file(
    "weights_of_another_library",
    "has no classifier fc.weight .* beside conv1.weight; it has embedder.weight; name the network",
    content=named("embedder.weight"),
)


@mistake("is damaged: layer1.0.conv1.weight has numbers that are not finite", command=GIVEN)
def weights_that_are_no_numbers(place):
    begins = write_zeros("w.safetensors", shapes_of("resnet18"))
    with open("w.safetensors", "r+b") as file:
        file.seek(begins["layer1.0.conv1.weight"])
        file.write(np.float16("nan").tobytes())


@mistake("run is a folder with m.pth, not a file", command=GIVEN.replace("w.safetensors", "run"))
def weights_that_are_a_folder(place):
    (place.path / "run").mkdir()
    (place.path / "run" / "m.pth").touch()


@mistake(r"w.pth is an archive of NumPy arrays", command=GIVEN.replace("safetensors", "pth"))
def weights_of_numpy(place):
    np.savez("w.npz", a=np.ones(1))
    (place.path / "w.npz").rename("w.pth")


@mistake(
    "w.pth is read by torch, which is not installed", command=GIVEN.replace("safetensors", "pth")
)
def weights_of_torch_without_torch(place):
    (place.path / "w.pth").write_bytes(LEGACY_TORCH_MAGIC)
    place.patch.setattr("keras_imnet64.convert.torch_files.find_spec", lambda name: None)


@mistake(
    "is a pickle that torch.save did not write, and nothing in it was run",
    command=GIVEN.replace("safetensors", "pth"),
)
def weights_with_code(place):
    class Harmful:
        def __reduce__(self):
            return open, ("made", "w")

    (place.path / "w.pth").write_bytes(pickle.dumps({"conv1.weight": Harmful()}, 2))


# ------------------------------------------------------------------------------------- recipe files


def recipe_file(name, content, sentence):
    def arrange(place):
        (place.path / "bad.toml").write_bytes(content)

    MISTAKES[name] = (arrange, "fit --recipe bad.toml --out run", sentence, 2)


recipe_file("recipe_of_bytes", bytes(range(256)), "cannot be read as TOML")
recipe_file("recipe_in_latin1", "name = 'é'".encode("latin-1"), "cannot be read as TOML")
recipe_file("recipe_that_is_huge", b"#" * 2**21, "2,097,152 bytes")
recipe_file("recipe_of_lists", b"a = " + b"[" * 5000 + b"]" * 5000, "nested too deeply")
recipe_file("recipe_of_tables", b"a" + b".a" * 5000 + b" = 1", "more than 16 parts")
recipe_file("recipe_with_a_giant_number", b"seed = " + b"9" * 5000, "cannot be read as TOML")
simply("recipe_that_is_not_there", "fit --recipe no/mine.toml", "no/mine.toml is not a file")
simply("recipe_that_is_a_folder", "fit --recipe ./data", "is not a file")
simply("recipe_that_never_ends", "fit --recipe /dev/zero", "is not a regular file")


# --------------------------------------------------------------------------------------- benchmarks

BENCH = "bench --recipe small.toml"

simply("bench_torch", f"{BENCH} --backend torch", "--peer measures PyTorch's own step")
simply("bench_backend", f"{BENCH} --backend jax,tensorflw", r'did you mean "tensorflow"\?')
simply("bench_dtype", f"{BENCH} --dtype bfloat16", r'did you mean "mixed_bfloat16"\?')
simply("bench_batch", f"{BENCH} --batch-size 0", "0 is not in the range")
simply("bench_batch_and_parts", f"{BENCH} --batch-size 9 --set train.accumulate_steps=2", "divide")
simply("bench_two_forms", f"{BENCH} --json --markdown", "two forms of the same result")
simply("bench_peer_devices", f"{BENCH} --peer --devices 2", "use --devices 1; received --devices 2")
simply(
    "bench_classes",
    f'{BENCH} --set data={{dataset="image_folder",image_size=16,batch_size=16}}',
    "set data.classes, such as",
)
simply("bench_no_result", f"{BENCH} --against small.toml", "small.toml holds no result of `bench")
simply("bench_no_file", f"{BENCH} --against none.json", "none.json holds no result .*No such file")
simply("bench_network", f"{BENCH} --set model.depth=9", "depth .* received 9")


@mistake("result.json was measured on another machine, 3 cores of CPU, and this one is")
def bench_other_machine(place):
    subject = {"recipe": "small", "model": {}, "image_size": 16, "num_classes": 10}
    record = {
        "kind": "keras_imnet64 bench",
        "subject": subject | {"batch_size": 16},
        "overrides": [],
        "images": "random",
        "machine": {"cpu": "CPU", "cores": 3, "gpus": []},
        "versions": {},
        "date": "2026-01-31",
        "load": 0.0,
        "num_rounds": 1,
        "block_seconds": 1.0,
        "rows": [],
    }
    (place.path / "result.json").write_text(json.dumps(record))
    return f"{BENCH} --against result.json"


# -------------------------------------------------------------------------------------- comparisons

COMPARE = "compare --recipe small.toml"
LAYERS = '--set augment=[{layer="keras_cv.layers.RandomCutout",height_factor=0.2,width_factor=0.2}]'

simply("compare_nothing", "compare", "takes a recipe to train, such as --recipe demo, or two runs")
simply("compare_both", f"{COMPARE} model.keras", "--recipe trains a recipe, and model.keras is")
simply("compare_one", "compare model.keras", "needs two runs or model files, or more; received 1")
simply("compare_backend", f"{COMPARE} --backends jax,tensorflw", r'did you mean "tensorflow"\?')
simply("compare_side", f"{COMPARE} --backends jax,", 'a side is a backend .*; received ""')
simply("compare_one_side", f"{COMPARE} --backends jax", '2 to 10 sides.*; received "jax"')
simply("compare_twice", f"{COMPARE} --backends jax,jax", "each side .* must be another one")
simply("compare_dtype", f"{COMPARE} --backends jax,jax:bf16", 'dtype "bf16" is not known; known: f')
simply(
    "compare_torch", f"{COMPARE} --backends jax,torch@2", "torch (is not installed|trains on one)"
)
simply("compare_seeds", f"{COMPARE} --seeds 2", "say with --epochs how long they are")
simply(
    "compare_epochs",
    f"{COMPARE} --epochs 1 --set train.average_last=2",
    "train.average_last must be at most the 1 epochs of the run; received 2",
)
simply("compare_steps", f"{COMPARE} --steps 0", "0 is not in the range")
simply("compare_layers", f"{COMPARE} {LAYERS}", "RandomCutout draws its own random numbers, so no")
simply("compare_folder", f"{COMPARE} --out data", "data is not empty and holds no comparison")
simply("compare_page", "compare model.keras model.keras --out page.png", "whose name ends in .html")
simply("compare_missing", "compare model.keras nowhere", "nowhere does not exist")
simply("compare_no_file", "compare model.keras no.csv", "no.csv does not exist; `evaluate")


@mistake("model.keras was trained on imagenet_resized/16x16 and other.keras on shapes")
def compare_other_images(place):
    return compare_with(place, ModelInfo(dataset="shapes"))


@mistake("model.keras and other.keras have other classes")
def compare_other_classes(place):
    wnids = tuple(f"n{number:08}" for number in range(10))
    return compare_with(place, ModelInfo(dataset="imagenet_resized/16x16", wnids=wnids))


@mistake("other.keras does not state its data set")
def compare_foreign_model(place):
    return compare_with(place, ModelInfo())


def compare_with(place, info):
    """The command for the material's model and another one, which states this."""
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    ship(model, place.path / "other.keras", info)
    return "compare model.keras other.keras"


# ------------------------------------------------------------------------------------------- sweeps

SWEEP = "sweep --recipe small.toml --out run --set data.holdout=16"
RATES = "--grid optimizer.learning_rate=0.1,0.2"
THOUSAND = ",".join(map(str, range(1000)))

simply("sweep_nothing", SWEEP, "nothing to vary: give --grid, --seeds, or a recipe in which")
simply("sweep_seeds", f"{SWEEP} --seeds 0", "0 is not in the range")
simply("sweep_key", f"{SWEEP} --grid optimizer.rate=1,2", "optimizer.rate is not an option of")
simply("sweep_key_near", f"{SWEEP} --grid train.epoch=1,2", r'did you mean "epochs"\?')
simply("sweep_value", f"{SWEEP} --grid train.epochs=1,0", "whole number from 1 .* received 0")
simply("sweep_not_toml", f"{SWEEP} --grid optimizer.name=sgd,muon", "--grid takes key=value,value")
simply("sweep_no_value", f"{SWEEP} --grid train.epochs=", "train.epochs has no values to try")
simply("sweep_twice", f"{SWEEP} --grid train.epochs=2,2", "train.epochs has the value 2 twice")
simply("sweep_key_twice", f"{SWEEP} {RATES} {RATES}", "has optimizer.learning_rate twice")
simply("sweep_reference", f"{SWEEP} --grid reference.top1=1,2", "cannot vary reference.top1, which")
simply("sweep_both_seeds", f"{SWEEP} --seeds 2 --grid train.seed=1,2", "both set the seeds")
simply(
    "sweep_million",
    f"{SWEEP} --grid loss.l2={THOUSAND} --grid train.epochs={THOUSAND}",
    "at most 1,000 cells; received 1,000,000",
)
simply("sweep_holdouts", f"{SWEEP} --grid data.holdout=8,16", "cannot vary data.holdout, because")
simply("sweep_names", f'{SWEEP} --set name=["a","b"]', "cannot vary name, the name of the recipe")
simply("sweep_data", f'{SWEEP} --set data.dataset=["a","b"]', "cannot vary data.dataset, because")
simply(
    "sweep_list_of_nothing",
    f"{SWEEP} --set optimizer.learning_rate=[]",
    "optimizer.learning_rate has no values to try",
)
simply(
    "sweep_no_holdout",
    f"sweep --recipe small.toml {RATES}",
    "set data.holdout to a number of them, such as 1000; received data.holdout = 0",
)
simply(
    "sweep_branches",
    "sweep --recipe spectral_tiny20_sub4 --seeds 2",
    "trains an ensemble of branches, .*: set model.band to the number of one",
)
simply("sweep_cell", f"{SWEEP} {RATES} --cell 2", "--cell must be from 0 to 1; received 2")
simply("sweep_cell_jobs", f"{SWEEP} {RATES} --cell 1 --jobs 2", "with --cell each trains one")
simply("sweep_slurm_jobs", f"{SWEEP} {RATES} --slurm --jobs 2", "with --slurm each trains one")
simply("sweep_cell_slurm", f"{SWEEP} {RATES} --cell 1 --slurm", "writes the script that does")
simply("sweep_cell_fresh", f"{SWEEP} {RATES} --cell 1 --fresh", "--cell goes on in the folder")
simply("sweep_virtual", f"{SWEEP} {RATES} --jobs 2 --virtual-devices 2", "one job at a time")
simply("sweep_folder", f"{SWEEP} {RATES} --out data", "data is not empty and holds no sweep")
simply("sweep_name", f"{SWEEP} {RATES} --name a/b", "--name must be one folder below saved_models")

SEARCH = f"{SWEEP} --search 3"
simply("search_nothing", SEARCH, "--search has nothing to choose: give --space, such as")
simply("search_grid", f"{SEARCH} {RATES}", "takes no --grid, which trains all combinations: give")
simply("search_seeds", f"{SEARCH} --seeds 2", "takes no --seeds, which is for grids: train the")
simply("search_cell", f"{SEARCH} --cell 0", "takes no --cell, which is for grids: its trials")
simply("search_space", f"{SWEEP} --space train.epochs=1..3", "--space is what --search may choose")
simply("search_many", f"{SWEEP} --search 1001 --space train.epochs=1..3", "1 to 1000 trials; rec")
simply("search_range", f"{SEARCH} --space train.epochs=3..1", "the smaller one.*received 3..1")
simply(
    "search_endless", f"{SEARCH} --space loss.l2=0.1..inf", "or optimizer.*received 'loss.l2=0.1"
)
simply("search_log", f"{SEARCH} --space loss.l2=0..1:log", "must begin above 0")
simply("search_key", f"{SEARCH} --space optimizer.rate=1..2", "optimizer.rate is not an option")
simply("search_seed", f"{SEARCH} --space train.seed=1..9", "cannot choose train.seed")


SLURM = {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_TASKS": "2"}


@mistake("are begun anew once: run the command without Slurm first")
def sweep_begun_anew_by_each(place):
    for name, value in SLURM.items():
        place.patch.setenv(name, value)
    return f"{SWEEP} {RATES} --fresh"


@mistake("--search 3 is for one process, and Slurm has started several: give --grid")
def search_by_several(place):
    for name, value in SLURM.items():
        place.patch.setenv(name, value)
    return f"{SEARCH} --space train.epochs=1..3"


@mistake(r"run holds another sweep \(keys: optimizer.learning_rate=\[0.1, 0.3\] -> .*0.2\]\)")
def sweep_of_other_values(place):
    content = read_content(place.path / "small.toml", ["data.holdout=16"])
    record = record_of(plan_grid(content, [parse_axis("optimizer.learning_rate=0.1,0.3")], None))
    begin(SweepFolder(place.path / "run"), record, fresh=False)
    return f"{SWEEP} {RATES}"


@mistake("run holds a run and cannot hold a sweep too", command=f"{SWEEP} {RATES}")
def sweep_in_a_run(place):
    (place.path / "run").mkdir()
    shutil.copy(place.path / "small.toml", place.path / "run" / "recipe.toml")


@mistake("sweep.json is missing or damaged", command=f"{SWEEP} {RATES}")
def sweep_with_a_damaged_record(place):
    (place.path / "run").mkdir()
    (place.path / "run" / "sweep.json").write_text("{}")


@mistake("--search needs Optuna, which is not installed: `pip install")
def search_without_optuna(place):
    place.patch.setattr("keras_imnet64.sweep.search.find_spec", lambda name: None)
    return f"{SEARCH} --space train.epochs=1..3"
