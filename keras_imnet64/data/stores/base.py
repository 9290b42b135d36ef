"""What raw and encoded stores have in common: their `meta.json` and their labels."""

from pathlib import Path

import numpy as np

from keras_imnet64.records import StoreMeta

PACKED = "packed"  # the folder of all stores in the data dir or cache dir: packed/<set>/<split>


def class_counts(labels: np.ndarray, num_classes: int) -> list[int]:
    """Returns the number of labels in each class; labels lie in 0..num_classes - 1."""
    counts: list[int] = np.bincount(labels, minlength=num_classes).tolist()
    return counts


class StoreBase:
    """One split of a data set.

    Attributes:
        path: the folder; None if the arrays do not come from a folder.
        meta: see `records.StoreMeta`.
        labels: int32 [N], 0-based positions in `wnids`.
    """

    def __init__(self, path: Path | None, meta: StoreMeta, labels: np.ndarray) -> None:
        self.path, self.meta, self.labels = path, meta, labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dataset(self) -> str:
        return self.meta.dataset

    @property
    def split(self) -> str:
        return self.meta.split

    @property
    def source(self) -> str:
        return self.meta.source

    @property
    def wnids(self) -> list[str]:
        """Class ids, in label order."""
        return self.meta.wnids

    @property
    def class_names(self) -> list[str]:
        """Readable names, in label order."""
        return self.meta.class_names

    @property
    def verified(self) -> bool:
        """Whether the images are those that the data set's name promises.

        Always true for the user's own images, because their names promise none.
        """
        return self.meta.verified

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of images and labels."""
        return self.meta.digest
