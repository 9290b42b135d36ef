"""Writes finished runs that nobody has trained: their weights are those of a seed."""

from dataclasses import asdict

from keras_imnet64.core.files import write_json
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.models.init import initialize
from keras_imnet64.models.ship import ship
from keras_imnet64.records import (
    Environment,
    FileScore,
    Metrics,
    ModelInfo,
    PerSplit,
    ProcessEntry,
    Scores,
)
from keras_imnet64.training.build import make_network


def write_run(folder, recipe, seed, data_dir):
    """A run whose images are those of `data_dir`; its scores are made up."""
    stores = [
        open_dataset(recipe.data.dataset, split, data_dir=data_dir)
        for split in ("train", "validation")
    ]
    train, validation = stores
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    size, num_classes = validation.image_size, len(validation.wnids)
    model = make_network(recipe, image_size=size, num_classes=num_classes)
    initialize(model, seed)
    info = ModelInfo(
        dataset=validation.dataset,
        wnids=tuple(validation.wnids),
        class_names=tuple(validation.class_names),
        recipe=recipe.without_results(),
    )
    ship(model, folder / "model.keras", info)
    environment = Environment(
        dataset=validation.dataset,
        verified=PerSplit(False, False),
        digest=PerSplit(train.digest, validation.digest),
        processes=(ProcessEntry(0, 0, "tensorflow", ("CPU:0",), "3.12.1", {"keras": "3.15.1"}),),
    )
    write_json(folder / "environment.json", to_json(environment))
    scores = Scores(top1=10.0, top5=50.0, loss=2.3, count=len(validation))
    metrics = Metrics(
        dataset=validation.dataset,
        split="validation",
        verified=False,
        model=FileScore(**asdict(scores)),
    )
    write_json(folder / "metrics.json", to_json(metrics, omit_none=True))
    return folder
