"""What goes wrong, said once: the exceptions that end a command, and its exit status."""

EXIT_DONE = 0
EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED_STATE_SAVED = 75
EXIT_STOPPED_AT_ONCE = 130

MOST_CHARACTERS = 1500  # of a message: three archives with their digests fit


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.

    Its message is one sentence: what was wrong, what was received, what would work. The command
    line prints it without a traceback and exits with `exit_status`. Whatever it quotes, it stays
    one line that fits a screen.
    """

    exit_status = EXIT_USER_ERROR

    def __init__(self, message):
        super().__init__(shortened(printable(message), MOST_CHARACTERS))


class RunFailed(UserError):
    """A run that began well and cannot go on: a number is not finite, memory or disk ran out."""

    exit_status = EXIT_RUN_FAILED


class Stopped(UserError):
    """A signal ended the run after its state was saved; the same command goes on from there."""

    exit_status = EXIT_STOPPED_STATE_SAVED


def nearest(name, known):
    """The known names written most like `name`, as a clause for an error message."""
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    if close:
        return f'did you mean "{close[0]}"?'
    return "known: " + ", ".join(sorted(known))


def printable(text):
    """Text for a terminal: what would move its cursor or colour it is shown as an escape.

    Names of files and classes come from anywhere; a line break among them would forge a line.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(text, most):
    """Text of at most so many characters: its beginning and its end, where a remedy stands."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 5]} ... {text[-end:]}"


def in_words(items, most=3):
    """The first few of a list of texts, and how many there are beyond them."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def reason(error, most=200):
    """What a library's exception says, as part of a line; its type where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return shortened(printable(text), most)
