"""Writes the results of `gpu.py` as Markdown: the machine, the table, and why rows failed."""

from collections.abc import Iterator, Sequence
from statistics import median

from gpu_records import MATRIX_PRODUCT, Header, Row

from keras_imnet64.bench.record import timing_of

FLOPS_PER_MAC = 6  # a multiplication and an addition; forward, gradients of inputs, of weights
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


def markdown(header: Header, rows: Sequence[Row]) -> str:
    """Returns the whole text."""
    settings, dates = header.settings, sorted(row.date for row in rows)
    machine = f"{header.machine.in_words}; {header.system}"
    peak = peak_flops(rows)
    lines = [
        machine + (f"; driver {header.driver}" if header.driver else ""),
        "",
        ", ".join(f"{name} {number}" for name, number in header.versions.items()),
        "",
        f"{settings.dtype}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, medians of "
        f"{settings.num_blocks} blocks" + ("; at a reduced size" * settings.reduced),
        "",
    ]
    if peak:
        rates = ", ".join(f"{row.engine} {row.flops / 1e12:.2f}" for row in rows if row.flops)
        lines += [
            f"Peak: {peak / 1e12:.2f} TFLOP/s, the best of the bfloat16 products of "
            f"{settings.matrix_size} x {settings.matrix_size} matrices: {rates}.",
            "",
        ]
    table = [COLUMNS, ("---",) * len(COLUMNS)]
    comparable = peak if settings.dtype == "mixed_bfloat16" else None
    table += [cells(row, rows, comparable) for row in rows if row.network != MATRIX_PRODUCT]
    lines += [f"| {' | '.join(line)} |" for line in table]
    return "\n".join([*lines, "", *notes(rows)]).rstrip()


def peak_flops(rows: Sequence[Row]) -> float | None:
    return max((row.flops for row in rows if row.flops), default=None)


def cells(row: Row, rows: Sequence[Row], peak: float | None) -> tuple[str, ...]:
    """Returns a row of the table; `peak` is of the rows' dtype, or None."""
    names = (row.network, row.engine, str(row.num_devices), f"{row.batch_size:,}")
    if not row.step_seconds:
        result = "memory ran out" if row.out_of_memory else "failed"
        return (*names, result, *[""] * (len(COLUMNS) - len(names) - 1))
    rate = images_per_second(row)
    macs = next((r.macs for r in rows if r.network == row.network and r.macs), None)
    flops = FLOPS_PER_MAC * macs * rate / row.num_devices if macs else None
    fed = median(row.fed_seconds) if row.fed_seconds else None
    return (
        *names,
        f"{rate:,.0f}",
        f"± {timing_of(row.step_seconds).spread:.1%}",
        f"{flops / 1e12:.3g}" if flops else "",
        f"{flops / peak:.1%}" if flops and peak else "",
        f"{row.peak_memory_mb:,.0f}" if row.peak_memory_mb else "",
        f"{row.num_devices * row.batch_size / fed:,.0f}" if fed else "",
        f"{1 - median(row.resident_seconds) / fed:.1%}" if fed else "",
        ratio(rate, one_device(row, rows)) if row.num_devices > 1 else "",
        ratio(rate, peer(row, rows)) if row.num_devices == 1 else "",
    )


def images_per_second(row: Row) -> float:
    return row.num_devices * row.batch_size / median(row.step_seconds)


def one_device(row: Row, rows: Sequence[Row]) -> float | None:
    """Returns the rate of the same engine and batch per device on one device."""
    key = (row.network, row.engine, 1, row.batch_size)
    return next((images_per_second(r) for r in rows if r.key == key and r.step_seconds), None)


def peer(row: Row, rows: Sequence[Row]) -> float | None:
    """Returns the better rate of PyTorch, eager or compiled, at the same network and batch."""
    if row.engine.startswith("torch"):
        return None
    subject = (row.network, row.batch_size)
    peers = [r for r in rows if r.engine.startswith("torch") and r.step_seconds]
    rates = [images_per_second(r) for r in peers if (r.network, r.batch_size) == subject]
    return max(rates, default=None)


def ratio(rate: float, other: float | None) -> str:
    return f"{rate / other:.2f}" if other else ""


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each row, or part of a row, that failed."""
    for row in rows:
        if row.failure:
            yield f"- {row.label}{', fed by the pipeline' * bool(row.step_seconds)}: {row.failure}"
