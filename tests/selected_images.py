"""The pixels and labels of the images of a selection, in memory."""

import numpy as np


def images_of(selection, numbers=None):
    """(uint8 [B, H, W, 3], int32 [B]) of images of a raw store, all unless some are named."""
    positions, labels = selection.look_up(np.arange(len(selection)) if numbers is None else numbers)
    return selection.store.gather(positions)[0], labels
