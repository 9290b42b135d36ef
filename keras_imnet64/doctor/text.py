"""Formats the report as plain text: headings, aligned rows, and the problems last."""

from collections.abc import Iterator, Sequence

from keras_imnet64.core.errors import printable
from keras_imnet64.doctor.report import DatasetState, Machine, Place, Problem, Programs, Report


def lines(report: Report) -> list[str]:
    """Returns the report as lines of plain text under headings, the problems last."""
    sections = {
        "Versions": [f"{name:<20} {version or '-'}" for name, version in report.versions.items()],
        "Backends": [*_backend_lines(report)],
        "Machine": [*_machine_lines(report.machine)],
        "Disk": [_place_line(place) for place in report.disk],
        "Compiled programs": [_programs_line(report.programs)],
        "Data sets": [_dataset_line(dataset) for dataset in report.datasets],
        "Problems": [*_problem_lines(report.problems)],
    }
    text = []
    for heading, content in sections.items():
        text += [heading, *(f"  {printable(line)}" for line in content), ""]
    return text[:-1]


def _backend_lines(report: Report) -> Iterator[str]:
    for name, trial in report.backends.items():
        if not trial.installed:
            yield f"{name:<11} not installed"
        elif trial.error:
            yield f"{name:<11} {trial.version or ''} fails: {trial.error}"
        else:
            devices = ", ".join(trial.devices)
            yield f"{name:<11} {trial.version} computes on {devices}, {trial.seconds:.1f} s"
    yield f"{'chosen':<11} {report.chosen_backend}, by {report.chosen_by}"


def _machine_lines(machine: Machine) -> Iterator[str]:
    total, available = machine.memory_bytes, machine.memory_available_bytes
    yield f"{'CPU cores':<11} {machine.cpu_cores}"
    yield f"{'memory':<11} {gigabytes(total)}, {gigabytes(available)} available"
    for gpu in machine.gpus:
        yield f"{'NVIDIA GPU':<11} {gpu.name}, {gigabytes(gpu.memory_bytes)}"
    if not machine.gpus:
        yield f"{'NVIDIA GPU':<11} {machine.gpu_error or '-'}"


def _place_line(place: Place) -> str:
    state = "writable" if place.writable else "not writable"
    return f"{place.what:<16} {gigabytes(place.free_bytes)} free, {state}: {place.path}"


def _programs_line(programs: Programs) -> str:
    if programs.error:
        return "not kept, see below"
    if programs.folder is None:
        return f"not kept here, by {programs.chosen_by}"
    used, bound = gigabytes(programs.bytes), gigabytes(programs.max_bytes)
    return f"{used} of at most {bound}, by {programs.chosen_by}: {programs.folder}"


def _dataset_line(dataset: DatasetState) -> str:
    if dataset.state == "not prepared":
        return f"{dataset.name:<24} not prepared: `{dataset.prepare}`"
    if dataset.problem:
        return f"{dataset.name:<24} {dataset.state}, see below"
    kind = "verified" if dataset.verified else "unverified"
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.splits.items())
    size = gigabytes(dataset.bytes)
    return f"{dataset.name:<24} {dataset.state}, {kind}, {counts}, {size}: {dataset.location}"


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    if not problems:
        yield "nothing is wrong"
    for problem in problems:
        yield problem.what
        yield f"  to fix it: {problem.mend}"


def gigabytes(size: int | None) -> str:
    """Returns a number of bytes as text such as "1.9 GB"; "unknown" for None."""
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
