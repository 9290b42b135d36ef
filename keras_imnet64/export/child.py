"""The two steps of an export that run in processes of their own, under TensorFlow.

`make` writes the artefact and the logits that the model computes for some images, `run` the logits
that the artefact computes for them. `messages` has their requests and reports.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.types import Json
from keras_imnet64.data import datasets
from keras_imnet64.data.images.reading import read_image, turn_upright
from keras_imnet64.data.images.views import View
from keras_imnet64.data.sources import shapes
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.export.formats import FORMATS, Serve
from keras_imnet64.export.messages import ExportRequest, MakeReport, StepOutcome
from keras_imnet64.models.contract import (
    check_stated_classes,
    classifier_shape,
    gives_probabilities,
    with_logits,
)
from keras_imnet64.models.info import model_info, read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import ModelInfo

if TYPE_CHECKING:
    import keras

NUM_IMAGES = 64  # of a data set, or drawn
MAX_GIVEN_IMAGES = 1024  # of the caller's, evenly spaced
BATCH_SIZE = 32
OTHER_DTYPES = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64")


def main(step: str, folder: str) -> None:
    """Reads a request, runs a step in a working folder, and prints the outcome."""
    silence_libraries()
    import_tensorflow()
    outcome = run_step(step, Path(folder), ExportRequest(**json.load(sys.stdin)))
    print(json.dumps(asdict(outcome)))


def run_step(step: str, work: Path, request: ExportRequest) -> StepOutcome:
    try:
        if step == "make":
            return StepOutcome(asdict(make(work, request)))
        run(work, request)
        return StepOutcome()
    except UserError as error:
        return StepOutcome(error=str(error), is_run_failure=isinstance(error, RunFailed))
    except Exception as error:  # TensorFlow and Keras raise any type, even for a full disk
        traceback.print_exc()  # -v shows it
        message = f"exporting {request.source} broke off: {type(error).__name__}: {reason(error)}"
        return StepOutcome(error=message, is_run_failure=True)


def make(work: Path, request: ExportRequest) -> MakeReport:
    """Writes the artefact, the images and the logits that the model computes for them."""
    info = read_model_info(request.source)
    model = load_in_float32(Path(request.source), work)
    shape = classifier_shape(model, request.source)
    had_softmax = gives_probabilities(model)
    model = with_logits(model)
    check_stated_classes(info, shape.num_classes, request.source)
    chosen = choose_images(shape.height, shape.width, info, request)
    num_images = len(chosen.pixels)
    # At least three images, so that both a batch of one and a batch of several are computed.
    pixels = np.resize(chosen.pixels, (max(3, num_images), *chosen.pixels.shape[1:]))
    np.save(work / "images.npy", pixels)
    np.save(work / "reference.npy", logits_of(predict_function(model), pixels))
    format = FORMATS[request.format]
    format.write(model, model_info(request.source), work / format.default_name)
    return MakeReport(
        num_images=num_images,
        image_source=chosen.source,
        is_stand_in=chosen.is_stand_in,
        num_class_names=len(info.class_names) if info.class_names else None,
        had_softmax=had_softmax,
    )


def run(work: Path, request: ExportRequest) -> None:
    """Writes the logits that the artefact computes for the images."""
    format = FORMATS[request.format]
    for package in format.without:
        sys.modules[package] = None  # type: ignore[assignment]  # makes its import fail
    serve = format.load(work / format.default_name)
    np.save(work / "found.npy", logits_of(serve, np.load(work / "images.npy")))


def predict_function(model: keras.Model) -> Serve:
    """Returns a function from uint8 pixels to the float32 logits that Keras itself predicts."""
    from keras import tree

    return lambda pixels: np.asarray(tree.flatten(model.predict_on_batch(pixels))[0], "float32")


def logits_of(serve: Serve, pixels: np.ndarray) -> np.ndarray:
    """Returns float32 logits [N, K], computed in batches of 1 and of up to BATCH_SIZE."""
    bounds = [0, *range(1, len(pixels), BATCH_SIZE), len(pixels)]
    return np.concatenate([np.asarray(serve(pixels[a:b])) for a, b in pairwise(bounds)])


def load_in_float32(path: Path, work: Path) -> keras.Model:
    """Loads a model; layers that compute in another dtype are replaced by float32 layers."""
    model, float32_path = load_model(path), work / "float32.keras"
    with zipfile.ZipFile(path) as source:
        config = json.loads(source.read("config.json"))
        float32_config = in_float32(config)
        if float32_config == config:
            return model
        with zipfile.ZipFile(float32_path, "w") as target:
            for member in source.namelist():
                is_config = member == "config.json"
                content = json.dumps(float32_config) if is_config else source.read(member)
                target.writestr(member, content)
    return load_model(float32_path)


def in_float32(config: Json) -> Json:
    """Returns a Keras config with float32 layers and without synchronised normalisation."""
    if isinstance(config, list):
        return [in_float32(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: in_float32(value) for key, value in config.items()}
    for key in ("dtype", "name", "source_name"):  # of inputs, policies and quantised policies
        if config.get(key) in OTHER_DTYPES:
            config[key] = "float32"
    return config | ({"synchronized": False} if "synchronized" in config else {})


# ------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ChosenImages:
    """Images to compare logits on.

    Attributes:
        pixels: uint8 [N, H, W, 3] of the size that the model takes.
        source: their origin, in words.
        is_stand_in: whether they are drawn because those of the model's data set are missing.
    """

    pixels: np.ndarray
    source: str
    is_stand_in: bool = False


def choose_images(
    height: int | None, width: int | None, info: ModelInfo, request: ExportRequest
) -> ChosenImages:
    """Returns the caller's images, or images of the model's data set, or drawn ones.

    Args:
        height, width: those that the model takes, None for any size.
    """
    size = info.image_size or 64
    height, width = height or size, width or size
    if request.images:
        files = [request.images[i] for i in _spread(len(request.images), MAX_GIVEN_IMAGES)]
        view = View.of(info, max(height, width)).one_crop
        images = [read_image(file, view) for file in files]
        return ChosenImages(_resize(images, height, width), "the images given")
    dataset = info.dataset or ""
    obstacle = find_obstacle(dataset, height, width, request)
    if obstacle:
        drawn, _ = shapes.draw("validation", NUM_IMAGES)
        pixels = _resize(drawn, height, width)
        return ChosenImages(pixels, f"drawn images: {obstacle}", is_stand_in=True)
    store = datasets.open_dataset(
        dataset,
        "validation",
        data_dir=request.data_dir,
        cache_dir=request.cache_dir,
        in_memory="never",
    )
    positions, source = _spread(len(store), NUM_IMAGES), f"{dataset} validation"
    if store.image_size is None:
        view = View.of(info, height).one_crop
        return ChosenImages(np.stack([_show(store, each, view) for each in positions]), source)
    return ChosenImages(store.gather(positions)[0], source)


def find_obstacle(dataset: str, height: int, width: int, request: ExportRequest) -> str | None:
    """Returns why images of a data set cannot be used, in words; None if they can."""
    if not dataset:
        return "the model does not state its data set"
    try:
        datasets.find_dataset(dataset)
    except UserError:
        return f"the data set {dataset} is not one of ours"
    try:
        info = datasets.info(dataset, data_dir=request.data_dir, cache_dir=request.cache_dir)
    except UserError as error:  # its images have moved, or a file is damaged
        return str(error)
    if info["state"] != "packed":
        return f"the data set {dataset} is not packed here"
    side = info["image_size"] or height  # images of any size are shown as squares
    if (height, width) != (side, side):
        return f"images of {dataset} have {side} x {side} pixels, the model takes another size"
    return None


def _spread(count: int, wanted: int) -> np.ndarray:
    """Returns at most `wanted` evenly spaced positions among `count`, int64."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(int)


def _show(store: EncodedStore, position: int, view: View) -> np.ndarray:
    (content,) = store.read(np.array([position]))
    with (
        store.image_as_indexed(position, content),
        Image.open(io.BytesIO(content)) as image,
    ):
        return view.show(turn_upright(image).convert("RGB"))


def _resize(images: Sequence[np.ndarray] | np.ndarray, height: int, width: int) -> np.ndarray:
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), box)) for i in images])


if __name__ == "__main__":
    main(*sys.argv[1:])
