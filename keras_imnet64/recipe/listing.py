"""What the listing of recipes says of each: network, data, size, published and measured results."""

from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.recipe.costs import costs_of

COLUMNS = {
    "recipe": "recipe",
    "model": "model",
    "dataset": "data set",
    "classes": "classes",
    "epochs": "epochs",
    "parameters": "parameters",
    "macs": "MACs",
    "published": "published",
    "measured": "measured",
}
NOT_RUN = "not yet run"


def facts(recipe):
    """What is known of a recipe, in plain values; at once for shipped networks, see `costs_of`.

    Returns:
        dict, fit for JSON: recipe, model (name and options), dataset, image_size, classes, epochs,
        parameters, macs (multiply-accumulates per image), published_top1 (percent, or None),
        published (all of [reference]), measured_top1 and measured by backend.
    """
    dataset = find_dataset(recipe.data.dataset)
    published, measured = recipe.reference, recipe.measured
    return {
        "recipe": recipe.name,
        "model": recipe.model.in_words,
        "dataset": dataset.name,
        "image_size": recipe.image_size,
        "classes": recipe.data.classes or dataset.num_classes,
        "epochs": recipe.train.epochs,
        **costs_of(recipe),
        "published_top1": published and published.accuracy,
        "published": published and published.model_dump(exclude_none=True),
        "measured_top1": {backend: result.accuracy for backend, result in measured.items()},
        "measured": {backend: r.model_dump(exclude_none=True) for backend, r in measured.items()},
    }


def row(recipe):
    """The facts as a line of a table, see COLUMNS."""
    known = facts(recipe)
    measured = [f"{top1:g} % {backend}" for backend, top1 in known["measured_top1"].items()]
    published = known["published_top1"]
    return known | {
        "macs": in_giga(known["macs"]),
        "published": f"{published:g} %" if published is not None else None,
        "measured": measured,
    }


def in_words(known):
    """The facts as lines of text."""
    yield f"{known['recipe']}: {known['model']}, {known['epochs']} epochs"
    classes = f"{known['classes']:,} classes" if known["classes"] else "classes of the images"
    yield f"data        {known['dataset']}, {classes}, {known['image_size']} px"
    if known["parameters"]:
        yield f"parameters  {known['parameters']:,}"
        yield f"MACs        {in_giga(known['macs'])} multiply-accumulates for one image"
    published = known["published"]
    yield f"published   {_result(published, known['published_top1']) if published else 'nothing'}"
    for backend, result in known["measured"].items():
        yield f"measured    {backend}: {_result(result, known['measured_top1'][backend])}"
    if not known["measured"]:
        yield f"measured    {NOT_RUN}"


def in_giga(macs):
    return macs and f"{macs / 1e9:.3f} G"


def _result(result, top1):
    said = [f"top-1 {top1:g} %"] if top1 is not None else []
    return "; ".join(said + [result[key] for key in ("note", "source") if key in result])
