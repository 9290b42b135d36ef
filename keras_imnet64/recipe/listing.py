"""Describes recipes for listings: network, data, size, published and measured results."""

from collections.abc import Iterable, Iterator
from typing import TypedDict

from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models.options import SpectralOptions
from keras_imnet64.recipe.costs import Costs, costs_of, macs_of_run, parameters_that_train
from keras_imnet64.recipe.schema import Recipe

COLUMNS = {
    "recipe": "recipe",
    "epochs": "epochs",
    "parameters": "params",
    "macs": "MACs",
    "published": "published",
    "measured": "measured",
}
GROUP = "group"  # of rows: the data set
NOT_RUN = "not yet run"


class SizeFacts(TypedDict):
    """The epochs of a run that train on images of one size."""

    image_size: int
    epochs: int
    macs: int | None  # multiply-accumulates per image


class Facts(TypedDict):
    """A recipe at a glance, as `recipes --json` prints it. Results are in percent."""

    recipe: str
    model: str  # name and options
    dataset: str
    image_size: int
    classes: int | None  # None if it depends on the images
    epochs: int
    parameters: int | None
    trained_parameters: int | None  # those that are not frozen
    frozen: list[str] | str | None  # train.freeze
    macs: int | None  # multiply-accumulates per image of the full size
    run_macs: int | None  # of all forward passes in training; None if the images are not counted
    sizes: list[SizeFacts]  # in their order
    published_top1: float | None
    published: JsonObject | None  # all of [reference]
    measured_top1: dict[str, float | None]  # by backend
    measured: dict[str, JsonObject]  # by backend


def facts(recipe: Recipe) -> Facts:
    """Returns the facts of a recipe; builds the network if its costs are not in the table."""
    published, measured = recipe.reference, recipe.measured
    costs = costs_of(recipe)
    return {
        "recipe": recipe.name,
        "model": recipe.model.in_words,
        "dataset": find_dataset(recipe.data.dataset).name,
        "image_size": recipe.image_size,
        "classes": recipe.num_classes,
        "epochs": recipe.train.epochs,
        "parameters": costs["parameters"],
        "trained_parameters": parameters_that_train(recipe, costs),
        "frozen": recipe.train.freeze,
        "macs": costs["macs"],
        "run_macs": macs_of_run(recipe, costs),
        "sizes": _sizes(recipe, costs),
        "published_top1": published.accuracy if published else None,
        "published": published.model_dump(exclude_none=True) if published else None,
        "measured_top1": {backend: result.accuracy for backend, result in measured.items()},
        "measured": {backend: r.model_dump(exclude_none=True) for backend, r in measured.items()},
    }


def _sizes(recipe: Recipe, costs: Costs) -> list[SizeFacts]:
    smaller = costs.get("smaller", {})
    return [
        {
            "image_size": stage.image_size,
            "epochs": stage.end_epoch - stage.first_epoch,
            "macs": smaller.get(str(stage.image_size), costs["macs"]),
        }
        for stage in recipe.size_stages
    ]


def rows(recipes: Iterable[Recipe]) -> list[dict[str, Json]]:
    """Returns the facts as lines of a table, see COLUMNS; those of a data set follow each other."""
    found = [_row(facts(recipe)) for recipe in recipes]
    return sorted(found, key=lambda row: str(row[GROUP]))


def _row(known: Facts) -> dict[str, Json]:
    """The results are top-1 accuracies; of those measured the best."""
    published, measured = known["published_top1"], known["measured_top1"].values()
    best = max((top1 for top1 in measured if top1 is not None), default=None)
    all_classes = find_dataset(known["dataset"]).num_classes
    some = known["classes"] if known["classes"] != all_classes else None
    return {
        "recipe": known["recipe"],
        "epochs": known["epochs"],
        "parameters": _in_three_digits(known["parameters"], 1e6, "M"),
        "macs": _in_three_digits(known["macs"], 1e9, "G"),
        "published": f"{published:.2f} %" if published is not None else None,
        "measured": f"{best:.2f} %" if best is not None else None,
        GROUP: known["dataset"] + (f", {some} classes" if some else ""),
    }


def networks_of(recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of a recipe's network, and of the one behind its spectral bands."""
    model = recipe.model
    return (model.name, model.base.name) if isinstance(model, SpectralOptions) else (model.name,)


def in_words(known: Facts) -> Iterator[str]:
    """Yields the facts as lines of text."""
    yield f"{known['recipe']}: {known['model']}, {known['epochs']} epochs"
    classes = f"{known['classes']:,} classes" if known["classes"] else "classes of the images"
    yield f"data        {known['dataset']}, {classes}, {known['image_size']} px"
    if known["parameters"]:
        total = f"{known['parameters']:,}"
        trained = f", of which {known['trained_parameters']:,} train" if known["frozen"] else ""
        yield f"parameters  {total}{trained}"
        yield f"MACs        {in_giga(known['macs'])} multiply-accumulates for one image"
    if known["frozen"]:
        yield f"frozen      {_frozen_in_words(known['frozen'])}"
    if any(each["image_size"] != known["image_size"] for each in known["sizes"]):
        parts = [
            f"{each['epochs']} at {each['image_size']} px ({in_giga(each['macs'])})"
            for each in known["sizes"]
        ]
        yield f"sizes       epochs: {', then '.join(parts)}"
    if known["run_macs"]:
        run = in_peta(known["run_macs"])
        yield f"run         {run} multiply-accumulates in all forward passes of training"
    published = known["published"]
    yield f"published   {_result(published, known['published_top1']) if published else 'nothing'}"
    for backend, result in known["measured"].items():
        yield f"measured    {backend}: {_result(result, known['measured_top1'][backend])}"
    if not known["measured"]:
        yield f"measured    {NOT_RUN}"


def _frozen_in_words(frozen: list[str] | str) -> str:
    if isinstance(frozen, str):
        return "all layers but logits"
    return f"the layers whose names begin with {', '.join(frozen)}"


def _in_three_digits(number: int | None, unit: float, letter: str) -> str | None:
    if not number:
        return None
    value = number / unit
    return f"{value:,.0f} {letter}" if value >= 100 else f"{value:#.3g} {letter}"


def in_giga(macs: int | None) -> str | None:
    return f"{macs / 1e9:.3f} G" if macs else None


def in_peta(macs: int) -> str:
    """Returns the multiply-accumulates of a run in units of 10^15, or below that of 10^12."""
    return f"{macs / 1e15:.3g} P" if macs >= 1e15 else f"{macs / 1e12:.3g} T"


def _result(result: JsonObject, top1: float | None) -> str:
    parts = [f"top-1 {top1:g} %"] if top1 is not None else []
    return "; ".join(parts + [result[key] for key in ("note", "source") if key in result])
