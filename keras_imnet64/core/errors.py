"""The exceptions that end a command, their exit statuses, and helpers for their messages."""

from collections.abc import Iterable, Sequence
from unicodedata import category

EXIT_DONE = 0
EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED_STATE_SAVED = 75
EXIT_STOPPED_AT_ONCE = 130
EXIT_STATUSES = {  # what each tells whoever runs a command
    EXIT_DONE: "Done.",
    EXIT_RUN_FAILED: (
        "The run failed after it had started: the loss or a weight is not finite, or memory or "
        "disk space ran out, or another of its processes was lost. Of `sweep`: a cell failed. Of "
        "`doctor`: something is wrong with the machine."
    ),
    EXIT_USER_ERROR: (
        "A mistake that you can correct: one sentence on standard error says what is wrong, what "
        "was received and what would work."
    ),
    EXIT_STOPPED_STATE_SAVED: (
        "A signal stopped the run after its state was saved: the same command resumes it."
    ),
    EXIT_STOPPED_AT_ONCE: "Stopped at once, by Ctrl-C or another signal.",
}

CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, ends of lines and paragraphs
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MAX_MESSAGE_CHARACTERS = 1500  # enough for the names and digests of three archives


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one sentence: what was wrong, what was received, what would work. The command
    line prints it without a traceback and exits with `exit_status`. Control characters are escaped
    and long messages shortened, so that the message is one line, whatever it quotes.
    """

    exit_status = EXIT_USER_ERROR

    def __init__(self, message: object) -> None:
        super().__init__(shortened(printable(message), MAX_MESSAGE_CHARACTERS))


class RunFailed(UserError):
    """A run failed after it had started: a number is not finite, memory or disk space ran out."""

    exit_status = EXIT_RUN_FAILED


class Stopped(UserError):
    """A signal stopped the run after its state was saved; the same command resumes it."""

    exit_status = EXIT_STOPPED_STATE_SAVED


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns a clause for an error message: the known name closest to `name`, or all of them."""
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.55)
    if close:
        return f'did you mean "{close[0]}"?'
    return "known: " + ", ".join(sorted(known))


def printable(text: object) -> str:
    """Returns the text with its control characters as escapes, safe to print on a terminal.

    Names of files and classes come from anywhere: a line break in one could forge a line, and marks
    of direction reorder it. Spaces of any width and joiners are part of words, and stay.
    """
    return "".join(
        c if c.isprintable() or not _is_control(c) else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def _is_control(character: str) -> bool:
    return category(character) in CONTROLS or character in DIRECTIONS


def shortened(text: str, max_characters: int) -> str:
    """Cuts out the middle of a long text; the end, where a remedy stands, is kept."""
    if len(text) <= max_characters:
        return text
    end = max_characters // 3
    return f"{text[: max_characters - end - 5]} ... {text[-end:]}"


def first_few(items: Sequence[str], count: int = 3) -> str:
    """Returns "a, b, c and 4 more": the first items of a list and the number of the others."""
    more = f" and {len(items) - count:,} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def reason(error: object, max_characters: int = 200) -> str:
    """Returns an exception's message as part of a line, or its type where the message is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return shortened(printable(text), max_characters)
