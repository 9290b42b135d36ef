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
    help="File to write; default: report.html (README.md) in the folder of one run, else here.",
)
@click.option(
    "--card",
    is_flag=True,
    help="Write the README.md that model hubs expect instead, into the folder of the run.",
)
@click.option("--license", "license_id", help="Licence of the weights on the card, such as mit.")
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
    """Write a page about finished runs for a browser.

    RUN is a run folder, or a file that `evaluate --predictions` has written. The page is one HTML
    file that loads nothing, for a browser on any device. Several runs must be of one data set and
    of the same classes; their predictions are compared image by image.

    \b
    Example: python cli.py report saved_models/demo-tensorflow saved_models/demo-jax
        --out demo.html
    """
    if license_id and not card:
        raise UserError(f"--license stands on a card; received {license_id} without --card")
    if card and len(runs) > 1:
        raise UserError(f"--card describes one run; received {len(runs)}")
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
        help="Write report.html, a page about the run, at the end; default: yes.",
    )(command)


def reporter(folders: DataFolders) -> "Callable[[Run, Devices], None]":
    """Returns a function that writes the page of a run that has just ended.

    The run is finished whatever becomes of its page, so what fails there is one sentence.
    """

    def write(run: "Run", devices: "Devices") -> None:
        try:
            from keras_imnet64.report import report

            result = report([run.path], devices=devices, **folders)
        except (Exception, KeyboardInterrupt) as error:  # none may fail a run that is finished
            say(f"report   not written ({reason(error)}): try `report {run.path}`")
        else:
            say(f"report   {result['out']}")

    return write
