"""The command line: commands parse options, choose the backend, call the package and print.

Results go to standard output (`--json`: one object on one line), everything else to standard error.
`core.errors` lists the exit statuses. The commands are in `runs` (train and use models), `report`,
`compare`, `sweep`, `data`, `recipes` and `machine` (compiled programs, `doctor`, `bench`); `frame`
has what they share. Commands import late, so that `--help` is fast and the backend is chosen before
Keras is imported.
"""

import os
import signal
import sys
from io import TextIOWrapper
from typing import NoReturn

import click

from keras_imnet64.cli import (  # noqa: F401 (each adds its commands)
    compare,
    data,
    machine,
    recipes,
    report,
    runs,
    sweep,
)
from keras_imnet64.cli.frame import cli
from keras_imnet64.core.errors import EXIT_RUN_FAILED, EXIT_STOPPED_AT_ONCE, UserError, printable
from keras_imnet64.core.invocation import program_name


def main() -> None:
    """Runs a command; prints an error of the user as one sentence and sets the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # training has its own handler
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal; nohup ignores it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed, as by >&-)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names on an ASCII terminal
    try:
        status = cli(prog_name=program_name(), standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        exit_with(error, error.exit_status)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        exit_with(error.format_message() + hint, error.exit_code)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_RUN_FAILED)
    except OSError as error:  # standard output cannot be written, or the disk is full
        exit_with(f"{error.filename or 'output'}: {error.strerror or error}", EXIT_RUN_FAILED)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_STOPPED_AT_ONCE)
    if status:
        sys.exit(status)


def exit_with(message: object, status: int) -> NoReturn:
    click.echo(f"Error: {printable(message)}", err=True)
    sys.exit(status)
