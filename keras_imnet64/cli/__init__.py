"""The command line: parse, choose the backend, import late, call, print.

Results go to standard output (`--json`: one object on one line), everything else to standard error.
Exit status: see `errors`. How results look: see `console`. The commands stand in `runs` (train and
use models), `data` and `about` (recipes, the machine); what they share in `frame`.
"""

import os
import signal
import sys
from pathlib import Path

import click

from keras_imnet64.cli import about, data, runs  # noqa: F401 (each adds its commands)
from keras_imnet64.cli.frame import cli
from keras_imnet64.core.errors import EXIT_RUN_FAILED, EXIT_STOPPED_AT_ONCE, UserError, printable


def main():
    """Run a command; a user's mistake becomes one sentence and an exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while training: see StopRequest
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal, without nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed, as by >&-)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, a name that is not
    try:
        status = cli(prog_name=program_name(), standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        end(error, error.exit_status)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        end(error.format_message() + hint, error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_RUN_FAILED)
    except OSError as error:  # standard output that cannot be written, a disk that fills
        end(f"{error.filename or 'output'}: {error.strerror or error}", EXIT_RUN_FAILED)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_STOPPED_AT_ONCE)
    if status:
        sys.exit(status)


def end(sentence, status):
    click.echo(f"Error: {printable(sentence)}", err=True)
    sys.exit(status)


def program_name():
    """What a user typed: the console script or `python cli.py`."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name
