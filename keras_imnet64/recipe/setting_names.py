"""Which settings of a recipe somebody may mean by a word, for messages about mistakes."""

from collections.abc import Iterable, Mapping

from keras_imnet64.core.tables import Table, by_tag
from keras_imnet64.models.options import AnyNetwork
from keras_imnet64.recipe.optimizers import OPTIMIZER_TABLES, SCHEDULE_TABLES
from keras_imnet64.recipe.schema import DataSection, EvaluationSection, LossSection, TrainSection

TABLES: Mapping[str, Iterable[type[Table]]] = {  # the likeliest first
    "train": [TrainSection],
    "data": [DataSection],
    "optimizer": OPTIMIZER_TABLES.values(),
    "loss": [LossSection],
    "model": by_tag(AnyNetwork).values(),
    "schedule": SCHEDULE_TABLES.values(),
    "evaluation": [EvaluationSection],
}
OTHER_WORDS = {
    "amp": "train.dtype",
    "arch": "model.name",
    "bs": "data.batch_size",
    "img_size": "data.image_size",
    "lr": "optimizer.learning_rate",
    "network": "model.name",
    "wd": "optimizer.weight_decay",
}


def settings_called(word: str) -> list[str]:
    """Returns dotted keys: ["train.epochs", "schedule.epochs"] for "epochs", "--lr" likewise."""
    name = word.lstrip("-").replace("-", "_")
    if name in OTHER_WORDS:
        return [OTHER_WORDS[name]]
    return [
        f"{table}.{name}"
        for table, kinds in TABLES.items()
        if any(name in kind.model_fields for kind in kinds)
    ]
