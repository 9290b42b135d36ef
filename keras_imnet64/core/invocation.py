"""How this program was started, for messages that name its commands and for further processes."""

import os
import sys
from pathlib import Path

STARTED_AS = "KERAS_IMNET64_STARTED_AS"  # in child processes: the name of their parent's program
CONSOLE_SCRIPT = "keras-imnet64"
SCRIPT = "cli.py"
MODULE = "keras_imnet64"


def program_name() -> str:
    """Returns what the user types before a command; from Python, what works wherever it does."""
    if os.environ.get(STARTED_AS):
        return os.environ[STARTED_AS]
    names = {SCRIPT: f"python {SCRIPT}", CONSOLE_SCRIPT: CONSOLE_SCRIPT}
    return names.get(Path(sys.argv[0]).name, f"python -m {MODULE}")


def program_words() -> list[str]:
    """Returns the words with which another process, in any folder, starts this program."""
    path = Path(sys.argv[0])
    words = {SCRIPT: [sys.executable, str(path.absolute())], CONSOLE_SCRIPT: [str(path.absolute())]}
    return words.get(path.name, [sys.executable, "-m", MODULE])
