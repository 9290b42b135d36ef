"""The report as plain text: headings, aligned rows, and the problems last."""

from keras_imnet64.core.errors import printable


def lines(report):
    """The report as lines of plain text under headings, the problems last."""
    sections = {
        "Versions": [
            f"{name:<20} {version or '-'}" for name, version in report["versions"].items()
        ],
        "Backends": [*_backend_lines(report)],
        "Machine": [*_machine_lines(report["machine"])],
        "Disk": [_disk_line(row) for row in report["disk"]],
        "Data sets": [_dataset_line(row) for row in report["datasets"]],
        "Problems": [*_problem_lines(report["problems"])],
    }
    text = []
    for heading, content in sections.items():
        text += [heading, *(f"  {printable(line)}" for line in content), ""]
    return text[:-1]


def _backend_lines(report):
    for name, row in report["backends"].items():
        if not row["installed"]:
            yield f"{name:<11} not installed"
        elif row["error"]:
            yield f"{name:<11} {row['version'] or ''} fails: {row['error']}"
        else:
            devices = ", ".join(row["devices"])
            yield f"{name:<11} {row['version']} computes on {devices}, {row['seconds']:.1f} s"
    yield f"{'chosen':<11} {report['chosen_backend']}, by {report['chosen_by']}"


def _machine_lines(found):
    total, available = found["memory_bytes"], found["memory_available_bytes"]
    yield f"{'CPU cores':<11} {found['cpu_cores']}"
    yield f"{'memory':<11} {gigabytes(total)}, {gigabytes(available)} available"
    for gpu in found["gpus"]:
        yield f"{'NVIDIA GPU':<11} {gpu['name']}, {gigabytes(gpu['memory_bytes'])}"
    if not found["gpus"]:
        yield f"{'NVIDIA GPU':<11} {found['gpu_error'] or '-'}"


def _disk_line(row):
    state = "writable" if row["writable"] else "not writable"
    return f"{row['what']:<16} {gigabytes(row['free_bytes'])} free, {state}: {row['path']}"


def _dataset_line(row):
    if row["state"] == "not prepared":
        return f"{row['name']:<24} not prepared: `{row['prepare']}`"
    if row["problem"]:
        return f"{row['name']:<24} {row['state']}, see below"
    kind = "verified" if row["verified"] else "unverified"
    counts = ", ".join(f"{count:,} {split}" for split, count in row["splits"].items())
    size = gigabytes(row["bytes"])
    return f"{row['name']:<24} {row['state']}, {kind}, {counts}, {size}: {row['location']}"


def _problem_lines(problems):
    if not problems:
        yield "nothing is wrong"
    for problem in problems:
        yield problem["what"]
        yield f"  to mend it: {problem['mend']}"


def gigabytes(size):
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
