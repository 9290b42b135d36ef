"""The names of the branches of spectral recipes."""

BRANCH_FOLDERS = "branch-*"  # the pattern of the names below


def branch_name(band: int) -> str:
    """Returns the name of a band's run folder, and of its network within the joined model."""
    return f"branch-{band:02}"
