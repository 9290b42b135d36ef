"""Which images of a store a run uses: some of its classes, all but a holdout, or everything."""

from dataclasses import dataclass, replace

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.order import holdout_positions
from keras_imnet64.data.stores.moments import moments
from keras_imnet64.data.stores.store import RawStore


@dataclass(frozen=True)
class Selection:
    """Images of a store by position, with labels 0..K-1 in the order of `wnids`."""

    store: RawStore
    positions: np.ndarray | None  # int64 [N] into the store; None: all of it
    label_map: np.ndarray | None  # int32, label in the store -> label here; None: the same
    wnids: list
    class_names: list

    def __len__(self):
        return len(self.store) if self.positions is None else len(self.positions)

    @property
    def num_classes(self):
        return len(self.wnids)

    @property
    def image_size(self):
        return self.store.image_size

    def look_up(self, indices):
        """(positions in the store int64, labels int32) of these indices 0..N-1, in their shape."""
        positions = indices if self.positions is None else self.positions[indices]
        labels = np.take(self.store.labels, positions)
        return positions, labels if self.label_map is None else self.label_map[labels]

    def gather(self, indices):
        """(images uint8 [B, H, W, 3], labels int32 [B]) of these indices 0..N-1."""
        positions, labels = self.look_up(indices)
        return np.take(self.store.images, positions, axis=0), labels

    def evenly_spaced(self, count):
        """So many of these images, or all where there are no more, from the first on."""
        if len(self) <= count:
            return self
        chosen = np.arange(count) * len(self) // count
        return replace(self, positions=self.look_up(chosen)[0])

    def moments(self):
        """Mean image, channel mean and channel std of exactly these images."""
        return moments(self.store, self.positions)


def first_classes(store, num_classes):
    """The first so many class ids of a store in sorted order."""
    return sorted(store.wnids)[:num_classes]


def select(store, wnids=None):
    """All of a store, or its images of these class ids, labelled by position in `wnids`."""
    if wnids is None or list(wnids) == list(store.wnids):
        return Selection(store, None, None, list(store.wnids), list(store.class_names))
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    label_map = np.array([label_of.get(wnid, -1) for wnid in store.wnids], "int32")
    positions = np.flatnonzero(label_map[store.labels] >= 0)
    name_of = dict(zip(store.wnids, store.class_names, strict=True))
    names = [name_of.get(wnid, wnid) for wnid in wnids]
    return Selection(store, positions, label_map, list(wnids), names)


def split_holdout(selection, num_held_out):
    """(the images to train on, the images kept aside for model selection)."""
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
