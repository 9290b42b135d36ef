"""What flows between the parts and what lies on disk, typed: one frozen dataclass for each.

A field is renamed here, and the type checker finds every use. On disk each has the name that its
file had from the start: where that is no Python name, an alias says so. `core.validation` reads and
writes records as JSON.
"""

# -------------------------------------------------------------------- branches of spectral recipes

BRANCH_FOLDERS = "branch-*"  # the pattern of the names below


def branch_name(band: int) -> str:
    """Returns the name of a band's run folder, and of its network within the joined model."""
    return f"branch-{band:02}"
