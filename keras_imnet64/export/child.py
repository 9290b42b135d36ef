"""The two steps of an export that run in processes of their own, under TensorFlow.

`make` writes the artefact and what the model computes of some images, `run` what the artefact
computes of them. They are told what to do, and tell what became of it, through files in a folder.
"""

import io
import json
import sys
import traceback
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.library_logs import import_tensorflow, silence_libraries
from keras_imnet64.data import datasets
from keras_imnet64.data.images.views import View, read_image, turn_upright
from keras_imnet64.data.sources import shapes
from keras_imnet64.export.formats import FORMATS
from keras_imnet64.models.contract import contract_of, names_of
from keras_imnet64.models.ship import load_model, model_info

NUM_IMAGES = 64  # of a data set, or drawn
MOST_GIVEN = 1024  # of the caller's images, spread evenly
BATCH_SIZE = 32
DRAWN = "drawn images"
OTHER_DTYPES = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64")


def main(step, work):
    """Entry of a child: the outcome goes into a file, an error as its sentence."""
    silence_libraries()
    import_tensorflow()
    work = Path(work)
    request = json.loads((work / "request.json").read_text())
    try:
        outcome = {"result": {"make": make, "run": run}[step](work, request)}
    except UserError as error:
        outcome = {"error": str(error), "failed": isinstance(error, RunFailed)}
    except Exception as error:  # TensorFlow and Keras raise what they like, also for a full disk
        traceback.print_exc()  # seen with -v
        why = f"{type(error).__name__}: {reason(error)}"
        outcome = {"error": f"exporting {request['source']} broke off: {why}", "failed": True}
    write_atomic(work / f"{step}.json", json.dumps(outcome))


def make(work, request):
    """Write the artefact, the images and the model's logits of them."""
    source, format = request["source"], request["format"]
    info = model_info(source)
    model = load_in_float32(source, work)
    height, width, num_classes = contract_of(model, source)
    _, names = names_of(info, num_classes, source)
    images, where = choose_images(height, width, info, request)
    # At least three, so that batches of one and of more are run.
    several = np.resize(images, (max(3, len(images)), *images.shape[1:]))
    np.save(work / "pictures.npy", several)
    np.save(work / "reference.npy", in_batches(plainly(model), several))
    row = FORMATS[format]
    row.write(model, info, work / row.default_name)
    return {
        "pictures": len(images),
        "source": where,
        "stand_in": where.startswith(DRAWN),
        "classes": len(names) if names else None,
    }


def run(work, request):
    """Compute the logits of the images with the artefact."""
    row = FORMATS[request["format"]]
    sys.modules.update(dict.fromkeys(row.without))  # importing one of them fails from now on
    serve = row.load(work / row.default_name)
    np.save(work / "found.npy", in_batches(serve, np.load(work / "pictures.npy")))


def plainly(model):
    """uint8 pixels -> logits float32 as Keras itself predicts them, for what is to be compared."""
    from keras import tree

    return lambda pixels: np.asarray(tree.flatten(model.predict_on_batch(pixels))[0], "float32")


def in_batches(serve, images):
    """Logits float32 [N, K], computed in batches of 1 and of up to BATCH_SIZE."""
    starts = [0, *range(1, len(images), BATCH_SIZE), len(images)]
    parts = [np.asarray(serve(images[a:b])) for a, b in pairwise(starts)]
    return np.concatenate(parts)


def load_in_float32(path, work):
    """The model of a file; where layers do not compute in float32, the same ones in float32."""
    model, twin = load_model(path), work / "float32.keras"
    with zipfile.ZipFile(path) as source:
        config = json.loads(source.read("config.json"))
        plain = in_float32(config)
        if plain == config:
            return model
        with zipfile.ZipFile(twin, "w") as target:
            for member in source.namelist():
                content = json.dumps(plain) if member == "config.json" else source.read(member)
                target.writestr(member, content)
    return load_model(twin)


def in_float32(config):
    """A Keras config whose layers compute in float32, without synchronised normalisation."""
    if isinstance(config, list):
        return [in_float32(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: in_float32(value) for key, value in config.items()}
    for key in ("dtype", "name", "source_name"):  # of inputs, of policies and of quantised policies
        if config.get(key) in OTHER_DTYPES:
            config[key] = "float32"
    return config | ({"synchronized": False} if "synchronized" in config else {})


# ------------------------------------------------------------------------------------ real images


def _spread(count, wanted):
    return np.linspace(0, count - 1, min(count, wanted)).astype(int)


def choose_images(height, width, info, request):
    """(uint8 [N, H, W, 3] of the model's size, where they come from, in words)."""
    size = info.get("image_size") or 64
    height, width = height or size, width or size
    if request["pictures"]:
        files = request["pictures"]
        files = [files[position] for position in _spread(len(files), MOST_GIVEN)]
        view = View.of(info, max(height, width)).one_crop
        images = [read_image(file, view) for file in files]
        return _resized(images, height, width), "the images given"
    where = {key: request[key] for key in ("data_dir", "cache_dir")}
    lacking = why_not(info.get("dataset"), height, width, where)
    if lacking:
        images, _ = shapes.draw("validation")
        return _resized(images[:NUM_IMAGES], height, width), f"{DRAWN}: {lacking}"
    store = datasets.open_dataset(info["dataset"], "validation", in_memory="never", **where)
    chosen, source = _spread(len(store), NUM_IMAGES), f"{info['dataset']} validation"
    if store.image_size is None:
        view = View.of(info, height).one_crop
        return np.stack([_shown(content, view) for content in store.read(chosen)]), source
    return store.gather(chosen)[0], source


def _shown(content, view):
    with Image.open(io.BytesIO(content)) as picture:
        return view.show(turn_upright(picture).convert("RGB"))


def why_not(dataset, height, width, where):
    """Why images of a data set cannot be taken, in words; None where they can."""
    if not dataset:
        return "the model does not say what it was trained on"
    try:
        datasets.find_dataset(dataset)
    except UserError:
        return f"the data set {dataset} is not one of ours"
    known = datasets.info(dataset, **where)
    side = known["image_size"]
    if known["state"] != "packed":
        return f"the data set {dataset} is not packed here"
    if (height, width) != (side or height, side or height):
        return f"images of {dataset} have {side} x {side} pixels, others than the model"
    return None


def _resized(images, height, width):
    box = Image.Resampling.BOX
    return np.stack([Image.fromarray(image).resize((width, height), box) for image in images])


if __name__ == "__main__":
    main(*sys.argv[1:])
