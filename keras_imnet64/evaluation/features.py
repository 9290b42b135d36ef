"""Features: the vector of an image from which a model's head computes the logits.

It is the input of the last dense layer; where a model ends otherwise, what its `pool` gives.
`embed` writes the features of image files into a file; `neighbours` scores with them.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import csv_text, write_atomic
from keras_imnet64.core.paths import check_output_file, expand
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.evaluation.forward import compile_forward
from keras_imnet64.evaluation.image_files import SkippedFile, apply_to_files, find_files, view_for
from keras_imnet64.models.contract import output_of, that_computes, with_logits
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.keras_private import producer
from keras_imnet64.models.load import load_model
from keras_imnet64.runs import model_file

POOL = "pool"


@keras_defaults()
def embed(
    run_or_model: StrPath,
    images: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    devices: Devices | None = None,
    skip_corrupt: bool = False,
) -> JsonObject:
    """Writes the features of image files, and their paths, into a file.

    Images are shown to the model as `predict` shows them.

    Args:
        run_or_model: a run folder or a model file.
        images: one or several files and folders of images.
        out: the file to write; its suffix says how, see `WRITERS`. A file there is replaced.
        devices: what `take_devices` returned; None takes all.
        skip_corrupt: skip files that cannot be read, and list them.

    Returns:
        dict, fit for JSON: out; images, their number; features, D; model; skipped, a list of
        {file, reason}.

    Raises:
        UserError: `out` cannot be written; there are no images, or one cannot be read; or the model
            has no features.
        RunFailed: the features are not finite.
    """
    out = expand(out)
    write = _writer(out)
    path = model_file(run_or_model)
    info = read_model_info(path)
    check_filter(View.of(info, 1).resize_filter)
    found = find_files(images, skip_corrupt)
    devices = devices or take_devices()
    files: list[str] = []
    unread: list[SkippedFile] = []
    rows = np.empty((0, 0), "float32")
    with devices.scope():
        model = load_model(path)
        view = view_for(model, info, path)
        forward = compile_forward(feature_model(model, path), devices)
        for batch, features in apply_to_files(forward, found, view, devices, path, "features"):
            unread += batch.skipped
            if not batch.files:
                continue
            if not rows.size:  # the length of a vector is known from the first batch
                rows = np.empty((len(found.files), features.shape[1]), "float32")
            rows[len(files) : len(files) + len(features)] = features
            files += map(str, batch.files)
    skipped = found.all_skipped(unread)
    write_atomic(out, write(files, rows[: len(files)]))
    return {
        "out": str(out),
        "images": len(files),
        "features": rows.shape[1],
        "model": str(path),
        "skipped": [asdict(file) for file in skipped],
    }


def feature_model(model: keras.Model, name: StrPath) -> keras.Model:
    """Returns a model of the same layers, from pixels [B, H, W, 3] to features float32 [B, D].

    Args:
        name: of the model in messages.

    Raises:
        UserError: it does not end in a dense layer that takes vectors, and has no layer `pool`
            that gives some.
    """
    pools = [layer for layer in model.layers if layer.name == POOL]
    last = that_computes(producer(with_logits(model).outputs[0]))
    if isinstance(last, keras.layers.Dense):
        features = last.input
    elif pools:
        features = output_of(model, pools[0])
    else:
        raise UserError(
            f'{name} has no layer "{POOL}" whose output could be taken, and ends in the layer '
            f'"{last.name}" ({type(last).__name__}): of an ensemble, take the model of a branch'
        )
    if len(features.shape) != 2:
        raise UserError(
            f"the features of {name} must be vectors [None, D]; received {list(features.shape)} "
            f'from the layer "{producer(features).name}"'
        )
    return keras.Model(model.inputs[0], keras.ops.cast(features, "float32"))


# -------------------------------------------------------------------------------------------- files


def _writer(out: StrPath) -> Callable[[Sequence[str], np.ndarray], bytes | str]:
    suffix = Path(out).suffix.lower()
    if suffix not in WRITERS:
        raise UserError(f"{out} must be a file whose name ends in {', '.join(WRITERS)}")
    check_output_file(out, suffix)
    if suffix == ".parquet":
        _import_pyarrow()
    return WRITERS[suffix]


def _as_parquet(files: Sequence[str], features: np.ndarray) -> bytes:
    """Columns file, a string, and features, a list of D float32."""
    pyarrow = _import_pyarrow()
    import pyarrow.parquet as parquet

    vectors = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
    names = [file.encode(errors="backslashreplace").decode() for file in files]
    content = io.BytesIO()
    parquet.write_table(pyarrow.table({"file": names, "features": vectors}), content)
    return content.getvalue()


def _as_csv(files: Sequence[str], features: np.ndarray) -> str:
    """Columns file, feature0, feature1, ...; the digits are those that tell float32 apart."""
    columns = [f"feature{number}" for number in range(features.shape[1])]
    rows = (
        {"file": file} | dict(zip(columns, (float(str(value)) for value in row), strict=True))
        for file, row in zip(files, features, strict=True)
    )
    return csv_text(["file", *columns], rows)


def _as_npz(files: Sequence[str], features: np.ndarray) -> bytes:
    """Arrays files, text [N], and features, float32 [N, D]."""
    content = io.BytesIO()
    np.savez(content, files=np.array(files), features=features)
    return content.getvalue()


def _import_pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            "a .parquet file needs the package pyarrow: `pip install pyarrow`, or write a .csv or "
            ".npz file"
        ) from None
    return pyarrow


WRITERS: Mapping[str, Callable[[Sequence[str], np.ndarray], bytes | str]] = {
    ".parquet": _as_parquet,
    ".csv": _as_csv,
    ".npz": _as_npz,
}
