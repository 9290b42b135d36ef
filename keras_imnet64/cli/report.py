"""The command `report`: a page about finished runs, which `fit` and `ensemble` make too."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    Decorated,
    cli,
    data_options,
    device_options,
    json_option,
    packing_bar,
    start_backend,
)
from keras_imnet64.core.console import say, show
from keras_imnet64.core.errors import UserError, reason

if TYPE_CHECKING:
    from keras_imnet64.backend.devices import Devices
    from keras_imnet64.runs import Run


@cli.command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=FILE,
    help="File to write; default: report.html, or README.md with --card, in the folder that is "
    "given; for several runs, report.html in the current folder.",
)
@click.option(
    "--card",
    is_flag=True,
    help="Instead of the page, write the README.md that model hubs expect.",
)
@click.option("--license", "license_id", help="With --card: licence of the weights, such as mit.")
@device_options
@data_options
@json_option
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    card: bool,
    license_id: str | None,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Write a page about finished runs, to open in a browser.

    RUN is a run folder, the folder of a comparison or of a sweep, or a file that
    `evaluate --predictions` has written. The page is one HTML file that loads nothing from
    elsewhere. Several runs must have the same data set and the same classes; their predictions are
    compared image by image.

    \b
    Example: python cli.py report saved_models/demo-tensorflow saved_models/demo-jax
        --out demo.html
    """
    if license_id and not card:
        raise UserError(
            f"--license is for a card; received {license_id} without --card: add --card"
        )
    if card and len(runs) > 1:
        raise UserError(f"--card describes one run; received {len(runs)}: give one run folder")
    taken = start_backend(backend, devices, virtual_devices)
    if card:
        from keras_imnet64.report.card import write_card

        show(write_card(runs[0], out, license_id), as_json)
        return
    from keras_imnet64.report import report as write

    with packing_bar() as progress:
        result = write(runs, out, devices=taken, pack_progress=progress, **folders)
    show(result, as_json)


def report_option(command: Decorated) -> Decorated:
    return click.option(
        "--report/--no-report",
        "has_report",
        default=True,
        help="At the end, write report.html, a page about the run; default: --report.",
    )(command)


def reporter(folders: DataFolders) -> "Callable[[Run, Devices], None]":
    """Returns a function that writes the page of a run that has just ended.

    The run is finished even if the page cannot be written; one line then says why.
    """

    def write(run: "Run", devices: "Devices") -> None:
        try:
            from keras_imnet64.report import report

            result = report([run.path], devices=devices, **folders)
        except (Exception, KeyboardInterrupt) as error:  # nothing here may fail a finished run
            say(f"report   not written ({reason(error)}): try `report {run.path}`")
        else:
            say(f"report   {result['out']}")

    return write
