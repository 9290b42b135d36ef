"""Writes the results of `gpu.py` as Markdown: the machine, the table, and why rows failed."""

from collections.abc import Sequence
from statistics import median

from keras_imnet64.core.types import JsonObject

FLOPS_PER_MAC = 6  # a multiplication and an addition; forward, gradients of inputs, of weights
PRODUCT = "matrix product"
COLUMNS = (
    "network",
    "engine",
    "devices",
    "batch per device",
    "images/s",
    "spread",
    "TFLOP/s per device",
    "of peak",
    "peak memory, MB",
    "fed by pipeline, images/s",
    "beside the step",
    "against one device",
    "against PyTorch",
)


def markdown(header: JsonObject, rows: Sequence[JsonObject]) -> str:
    """Returns the whole text."""
    machine, versions, settings = header["machine"], header["versions"], header["settings"]
    gpus = ", ".join(f"{machine['gpus'].count(g)} x {g}" for g in sorted(set(machine["gpus"])))
    peak = peak_flops(rows)
    dates = sorted({row["date"] for row in rows})
    lines = [
        f"{gpus or 'no GPU'}; {machine['cpu']}, {machine['cores']} cores; {machine['system']}"
        + (f"; driver {machine['driver']}" if machine["driver"] else ""),
        "",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        f"{settings['dtype']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, medians of "
        f"{settings['num_blocks']} blocks" + ("; at a reduced size" * settings["reduced"]),
        "",
    ]
    if peak:
        size = settings["matrix_size"]
        lines += [
            f"Peak: {peak / 1e12:.2f} TFLOP/s, the best of the bfloat16 products of {size} x {size}"
            " matrices: "
            + ", ".join(
                f"{row['engine']} {row['flops'] / 1e12:.2f}" for row in rows if "flops" in row
            )
            + ".",
            "",
        ]
    networks = [row for row in rows if row["network"] != PRODUCT]
    table = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row, rows, peak) for row in networks)]
    lines += [f"| {' | '.join(line)} |" for line in table]
    return "\n".join([*lines, *notes(rows)])


def peak_flops(rows: Sequence[JsonObject]) -> float | None:
    return max((row["flops"] for row in rows if "flops" in row), default=None)


def cells(row: JsonObject, rows: Sequence[JsonObject], peak: float | None) -> tuple[str, ...]:
    """Returns a row of the table."""
    names = (row["network"], row["engine"], str(row["num_devices"]), f"{row['batch_size']:,}")
    if "step_seconds" not in row:
        result = "memory ran out" if row.get("out_of_memory") else "failed"
        return (*names, result, *[""] * (len(COLUMNS) - len(names) - 1))
    rate = images_per_second(row)
    macs = row.get("macs") or macs_of(row["network"], rows)
    flops = FLOPS_PER_MAC * macs * rate / row["num_devices"] if macs else None
    num_images = row["num_devices"] * row["batch_size"]
    return (
        *names,
        f"{rate:,.0f}",
        spread(row["step_seconds"]),
        f"{flops / 1e12:.3g}" if flops else "",
        f"{flops / peak:.1%}" if flops and peak else "",
        f"{row['peak_memory_mb']:,.0f}" if row.get("peak_memory_mb") else "",
        f"{num_images / median(row['fed_seconds']):,.0f}" if "fed_seconds" in row else "",
        f"{row['share_beside_step']:.1%}" if "share_beside_step" in row else "",
        ratio(rate, one_device(row, rows)) if row["num_devices"] > 1 else "",
        ratio(rate, peer(row, rows)) if row["num_devices"] == 1 else "",
    )


def images_per_second(row: JsonObject) -> float:
    return float(row["num_devices"] * row["batch_size"] / median(row["step_seconds"]))


def spread(seconds: Sequence[float]) -> str:
    """Returns the distance between the fastest and the slowest block, of the median."""
    return f"{(max(seconds) - min(seconds)) / median(seconds):.1%}"


def macs_of(network: str, rows: Sequence[JsonObject]) -> int | None:
    """Returns the multiply-accumulates that another row has counted in the network."""
    return next((r["macs"] for r in rows if r["network"] == network and "macs" in r), None)


def one_device(row: JsonObject, rows: Sequence[JsonObject]) -> float | None:
    """Returns the rate of the same engine and batch per device on one device."""
    for other in rows:
        same = all(other[name] == row[name] for name in ("network", "engine", "batch_size"))
        if same and other["num_devices"] == 1 and "step_seconds" in other:
            return images_per_second(other)
    return None


def peer(row: JsonObject, rows: Sequence[JsonObject]) -> float | None:
    """Returns the better rate of PyTorch, eager or compiled, at the same network and batch."""
    if row["engine"].startswith("torch"):
        return None
    rates = [
        images_per_second(other)
        for other in rows
        if other["engine"].startswith("torch")
        and (other["network"], other["batch_size"]) == (row["network"], row["batch_size"])
        and "step_seconds" in other
    ]
    return max(rates, default=None)


def ratio(rate: float, other: float | None) -> str:
    return f"{rate / other:.2f}" if other else ""


def notes(rows: Sequence[JsonObject]) -> list[str]:
    """Returns a line for each row, or part of a row, that failed."""
    lines = []
    for row in rows:
        name = f"{row['network']}, {row['engine']}, {row['num_devices']} x {row['batch_size']}"
        if "failure" in row:
            lines.append(f"- {name}: {row['failure']}")
        if "pipeline_failure" in row:
            lines.append(f"- {name}, fed by the pipeline: {row['pipeline_failure']}")
    return ["", *lines] if lines else []
