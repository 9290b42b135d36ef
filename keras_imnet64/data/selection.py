"""Selections: the images of a store that a run uses, by class, without a holdout, or all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.order import holdout_positions
from keras_imnet64.data.stores.moments import Moments, moments
from keras_imnet64.data.stores.opening import Store


@dataclass(frozen=True)
class Selection:
    """Images of a store by position, with labels 0..K-1 in the order of `wnids`.

    Attributes:
        positions: int64 [N], positions in the store; None selects all images.
        label_map: int32 [K of the store], the new label of each label in the store; None keeps all.
    """

    store: Store
    positions: np.ndarray | None
    label_map: np.ndarray | None
    wnids: list[str]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.store) if self.positions is None else len(self.positions)

    @property
    def num_classes(self) -> int:
        return len(self.wnids)

    @property
    def image_size(self) -> int | None:
        """Pixels per side; None if images have any size."""
        return self.store.image_size

    @property
    def empty_classes(self) -> list[str]:
        """The names of the classes of which no image is selected."""
        _, labels = self.look_up(np.arange(len(self)))
        counts = np.bincount(labels, minlength=self.num_classes)
        return [name for name, count in zip(self.class_names, counts, strict=True) if not count]

    def look_up(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions in the store, int64, and labels, int32, of indices in any shape."""
        positions = indices if self.positions is None else self.positions[indices]
        labels = np.take(self.store.labels, positions)
        return positions, labels if self.label_map is None else self.label_map[labels]

    def evenly_spaced(self, count: int) -> "Selection":
        """Selects `count` images at equal distances, from the first on; all if there are fewer."""
        if len(self) <= count:
            return self
        chosen = np.arange(count) * len(self) // count
        return replace(self, positions=self.look_up(chosen)[0])

    def moments(self) -> Moments:
        """Returns mean image, channel means and standard deviations of the selected images."""
        return moments(self.store, self.positions)


def first_classes(store: Store, num_classes: int) -> list[str]:
    """Returns the first class ids of a store in sorted order."""
    return sorted(store.wnids)[:num_classes]


def select(store: Store, wnids: Sequence[str] | None = None) -> Selection:
    """Selects a whole store, or its images of these class ids, labelled by position in `wnids`."""
    if wnids is None or list(wnids) == store.wnids:
        return Selection(store, None, None, list(store.wnids), list(store.class_names))
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    label_map = np.array([label_of.get(wnid, -1) for wnid in store.wnids], "int32")
    positions = np.flatnonzero(label_map[store.labels] >= 0)
    name_of = dict(zip(store.wnids, store.class_names, strict=True))
    names = [name_of.get(wnid, wnid) for wnid in wnids]
    return Selection(store, positions, label_map, list(wnids), names)


def split_holdout(selection: Selection, num_held_out: int) -> tuple[Selection, Selection]:
    """Returns (the images to train on, the images held out for model selection)."""
    if num_held_out >= len(selection):
        raise UserError(
            f"data.holdout must leave images to train on: at most {len(selection) - 1} of "
            f"{len(selection)}; received {num_held_out}"
        )
    positions = selection.positions
    if positions is None:
        positions = np.arange(len(selection))
    train, held_out = holdout_positions(len(selection), num_held_out)
    return (
        replace(selection, positions=positions[train]),
        replace(selection, positions=positions[held_out]),
    )
