"""What a worker process is asked to measure. Needs no Keras, for the parent to write it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What a worker measures.

    Attributes:
        recipe: TOML text, with the dtype and the batch size to measure.
        has_images: whether the data set is packed; otherwise the images are random.
        devices: as for `take_devices`.
        data_dir, cache_dir: as for `load_data`.
    """

    recipe: str
    has_images: bool
    devices: str | None = None
    data_dir: str | None = None
    cache_dir: str | None = None
