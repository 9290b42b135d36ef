"""What flows between the parts and what lies on disk, typed: one frozen dataclass for each.

A field is renamed here, and the type checker finds every use. On disk each has the name that its
file had from the start: where that is no Python name, an alias says so. `core.validation` reads and
writes records as JSON.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

# -------------------------------------------------------------------------- downsampled data sets


@dataclass(frozen=True)
class DownsamplingState:
    """How far one split of a data set is downsampled, and what it is made from.

    Attributes:
        dataset, digest: of the large images.
        size: pixels per side of the small images.
        pillow_version: on which their pixels may depend.
        num_chunks: how many chunks of `images_per_chunk` images are on disk.
    """

    dataset: str
    digest: str
    size: int
    resize_filter: Annotated[str, Field(alias="filter")]
    pillow_version: Annotated[str, Field(alias="pillow")]
    images_per_chunk: Annotated[int, Field(alias="chunk")]
    num_chunks: Annotated[int, Field(alias="chunks")]


# -------------------------------------------------------------------- branches of spectral recipes

BRANCH_FOLDERS = "branch-*"  # the pattern of the names below


def branch_name(band: int) -> str:
    """Returns the name of a band's run folder, and of its network within the joined model."""
    return f"branch-{band:02}"
