"""Ends a benchmark, or one of its workers, as the commands end: with one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.training.memory import is_out_of_memory


@contextmanager
def one_sentence() -> Iterator[None]:
    """Prints a mistake, or that memory ran out, as "Error: ...", and exits with its status."""
    try:
        yield
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:  # each framework raises its own type when memory runs out
        if not is_out_of_memory(error) and "can't allocate memory" not in str(error):
            raise
        print(f"Error: out of memory: {reason(error)}", file=sys.stderr)
        sys.exit(RunFailed.exit_status)
