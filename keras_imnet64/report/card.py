"""The README.md that model hubs expect beside a model: a head in YAML, then text for people."""

import json
from collections.abc import Iterator
from pathlib import Path

from keras_imnet64 import __version__
from keras_imnet64.core.console import text_of
from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file, refuse_existing
from keras_imnet64.core.types import Json, JsonObject, StrPath
from keras_imnet64.data.datasets import has_part_of_classes, scored_images
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Metrics, ModelInfo
from keras_imnet64.report.subjects import Subject, open_subjects

HUB_NAMES = {"imagenet2012": "ILSVRC/imagenet-1k", "tiny_imagenet": "zh-plus/tiny-imagenet"}
RESEARCH_ONLY = ("imagenet", "tiny_imagenet", "downsampled/")  # how such names begin


def write_card(
    path: StrPath, out: StrPath | None = None, license_id: str | None = None
) -> JsonObject:
    """Writes the card of a finished run.

    Args:
        path: the run folder.
        out: the file, whose name ends in .md; default: README.md in the run folder.
        license_id: the licence of the weights, as hubs spell it; None states that it is not known.

    Returns:
        dict: out.

    Raises:
        UserError: there is no such run, it is not finished, or the file exists or cannot be
            written.
    """
    (subject,) = open_subjects([path])
    if subject.recipe is None:
        raise UserError(f"a card describes a run folder; received the predictions in {path}")
    file = Path(out or Path(path) / "README.md")
    refuse_existing(file)
    check_output_file(file, ".md")
    body = "\n".join(_body(subject, subject.recipe, license_id))
    write_atomic(file, f"---\n{yaml_of(_head(subject, license_id))}---\n\n{body}\n")
    return {"out": str(file)}


def yaml_of(values: Json, indent: str = "") -> str:
    """Returns plain values as YAML, whose texts are written as JSON, a part of YAML."""
    lines = []
    items = values.items() if isinstance(values, dict) else ((None, item) for item in values)
    for key, value in items:
        lead = f"{indent}- " if key is None else f"{indent}{key}:"
        if not isinstance(value, dict | list):
            lines.append(
                f"{lead}{'' if key is None else ' '}{json.dumps(value, ensure_ascii=False)}\n"
            )
        elif key is None:
            lines.append(f"{lead}{yaml_of(value, indent + '  ').lstrip()}")
        else:
            lines.append(f"{lead}\n{yaml_of(value, indent + '  ')}")
    return "".join(lines)


def _head(subject: Subject, license_id: str | None) -> JsonObject:
    metrics, scores = subject.metrics, subject.metrics.model
    unverified = "" if metrics.verified else " (not verified)"
    is_subset = has_part_of_classes(metrics.dataset, len(subject.info.wnids or ()))
    some = f", {len(subject.info.wnids or ()):,} of its classes" if is_subset else ""
    hub_name = HUB_NAMES.get(metrics.dataset) if metrics.verified and not is_subset else None
    return {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "license": license_id or "unknown",
        "tags": ["image-classification", "keras", "keras_imnet64"],
        **({"datasets": [hub_name]} if hub_name else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": printable(subject.label),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "type": hub_name or metrics.dataset,
                            "name": f"{metrics.dataset}{some}{unverified}",
                            "split": metrics.split,
                        },
                        "metrics": [
                            {
                                "type": "accuracy",
                                "name": name,
                                "value": round(value, 4),
                                "verified": False,
                            }
                            for name, value in (
                                ("Top-1 accuracy (%)", scores.top1),
                                ("Top-5 accuracy (%)", scores.top5),
                            )
                        ],
                    }
                ],
            }
        ],
    }


def _body(subject: Subject, recipe: Recipe, license_id: str | None) -> Iterator[str]:
    metrics, info = subject.metrics, subject.info
    size = f"{info.image_size} x {info.image_size} pixels" if info.image_size else "any size"
    yield f"# {_code(subject.label)}\n"
    network = "A network of the author's own" if info.own_model else _code(recipe.model.in_words)
    yield (
        f"{network}, an image classifier for {len(info.wnids or ()):,} "
        f"classes, trained on {_code(metrics.dataset)} by the recipe {_code(recipe.name)} of "
        f"keras_imnet64 {__version__}. It takes raw pixels from 0 to 255 of {size} and returns "
        "logits.\n"
    )
    yield "## Use\n"
    yield '```python\nimport keras\n\nmodel = keras.saving.load_model("model.keras")'
    yield "logits = model.predict(pixels)  # uint8 or float [B, H, W, 3]; no normalisation\n```\n"
    yield (
        f"The file needs {packages_of(info)}, under any backend. `classes.txt` names the classes "
        "in the order of the logits, and the member `imnet64.json` of the file their ids.\n"
    )
    yield "## Intended use and limits\n"
    yield (
        "Made for research on image classification at small resolution. The scores below hold for "
        "images like those of the data set; a network answers every image with one of its classes, "
        "whatever is on it. It has not been examined for bias or for use in decisions about people."
    )
    if metrics.dataset.startswith(RESEARCH_ONLY):
        yield "The images of the data set are for non-commercial research and education only."
    if license_id is None:
        yield "The licence of the weights is not stated: ask the author."
    yield "\n## Results\n"
    yield from _results(metrics, len(info.wnids or ()), recipe)
    yield "\n## Training\n"
    yield "| | |\n|---|---|"
    for name, value in _training(subject, recipe).items():
        yield f"| {name} | {_code(text_of(value))} |"
    if info.own_model:
        yield "\nThe whole recipe is in `recipe.toml`; the network is not the recipe's."
    else:
        yield "\nThe whole recipe is in `recipe.toml`: `fit --recipe recipe.toml` repeats the run."


def packages_of(info: ModelInfo) -> str:
    """Returns the packages that a model file needs, as words."""
    return " and ".join(["Keras", *info.needs]) if info.needs else "Keras alone"


def _results(metrics: Metrics, num_classes: int, recipe: Recipe) -> Iterator[str]:
    """Yields the lines of the scores, those that were published apart from those measured."""
    images = scored_images(metrics.dataset, metrics.split, metrics.model.count, num_classes)
    crops = ", as the mean of ten crops of each" if metrics.crops == 10 else ""
    scores, best, published = metrics.model, metrics.best, recipe.reference
    unverified = "" if metrics.verified else ", which are NOT VERIFIED to be the published ones"
    yield f"On {images}{crops}{unverified}:\n"
    yield "| result | top-1 (%) | top-5 (%) |\n|---|---|---|"
    yield f"| `model.keras`, measured | {scores.top1:.2f} | {scores.top5:.2f} |"
    if best is not None and metrics.selected_on not in (None, "none"):
        yield f"| `best.keras`, measured, epoch {best.epoch} | {best.top1:.2f} | {best.top5:.2f} |"
    if published is not None and published.accuracy is not None:
        source = _code(published.source or "no source")
        words = f"published for the recipe, not of this model: {source}"
        yield f"| {words} | {published.accuracy:.2f} | |"


def _training(subject: Subject, recipe: Recipe) -> JsonObject:
    found: JsonObject = {
        "epochs": subject.metrics.epochs or recipe.train.epochs,
        "batch size": recipe.data.batch_size,
        "optimizer": recipe.optimizer.name,
        "learning rate": recipe.optimizer.learning_rate,
        "schedule": recipe.schedule.name,
        "dtype": recipe.train.dtype,
        "seed": recipe.train.seed,
        "held-out training images": recipe.data.holdout,
        "seconds": subject.metrics.training_seconds,
        "peak memory (MB)": subject.metrics.peak_memory_mb,
    }
    if subject.environment is not None:
        last = subject.environment.processes[-1]
        found |= {"backend": last.backend, "devices": ", ".join(last.devices)} | last.versions
    return found


def _code(text: str) -> str:
    """Returns a text that no Markdown takes for markup."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', '/')}`"
