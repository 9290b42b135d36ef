"""What the options of a network or an augmentation may be, as rows of their tables say it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_imnet64.core.errors import UserError, nearest

REQUIRED = object()


@dataclass(frozen=True)
class Option:
    """What an option is if it is not given, and what it may be.

    Attributes:
        default: REQUIRED if there is none.
        texts: the words that it may be.
        fits: whether it may be another value; takes the value.
        in_words: what `fits` asks for.
    """

    default: Any
    texts: tuple = ()
    fits: Callable = lambda value: False
    in_words: str = ""

    def check(self, name, value):
        if value not in self.texts and not self.fits(value):
            texts = ", ".join(f'"{text}"' for text in self.texts)
            texts = f"one of {texts}" if len(self.texts) > 1 else texts
            expected = " or ".join(filter(None, [self.in_words, texts]))
            raise UserError(f"{name} must be {expected}; received {value!r}")


def check_options(table, name, known, given):
    """Refuse options that `name` does not have, lacks, or that are of another type.

    Args:
        table: of the recipe, such as "model", for the messages.
        name: what has the options.
        known: {option: Option}.
        given: {option: value}.
    """
    for key, value in given.items():
        if key not in known:
            raise UserError(f'{table}.{key} is not an option of "{name}"; {nearest(key, known)}')
        known[key].check(f"{table}.{key}", value)
    missing = [key for key, o in known.items() if o.default is REQUIRED and key not in given]
    if missing:
        raise UserError(f'{table} "{name}" needs a value for {", ".join(missing)}; received none')


def defaults(known):
    return {key: option.default for key, option in known.items()}


# -------------------------------------------------------------------------------------- kinds


def number(lowest=None, highest=None, default=REQUIRED):
    """A number between two ends, both of them included."""

    def fits(value):
        return (
            is_number(value)
            and (lowest is None or value >= lowest)
            and (highest is None or value <= highest)
        )

    return Option(default, (), fits, f"a number{_range(lowest, highest)}")


def rate(default):
    fits = lambda value: is_number(value) and 0 <= value < 1  # noqa: E731
    return Option(default, (), fits, "a number of at least 0 and below 1")


def whole(lowest, highest, default=REQUIRED, texts=()):
    fits = lambda value: type(value) is int and lowest <= value <= highest  # noqa: E731
    return Option(default, texts, fits, f"a whole number{_range(lowest, highest)}")


def auto_or_whole(lowest, highest):
    return whole(lowest, highest, "auto", ("auto",))


def interval(lowest, highest, default):
    """[low, high], both within two ends."""

    def fits(value):
        if not isinstance(value, list | tuple) or len(value) != 2:
            return False
        return all(map(is_number, value)) and lowest <= value[0] <= value[1] <= highest

    return Option(default, (), fits, f"[low, high]{_range(lowest, highest)}")


def flag():
    return Option(False, fits=lambda value: isinstance(value, bool), in_words="true or false")


def one_of(*texts):
    """The first is the default."""
    return Option(texts[0], texts)


def table(in_words):
    return Option(REQUIRED, (), lambda value: isinstance(value, dict), f"a table {in_words}")


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range(lowest, highest):
    if highest is None:
        return "" if lowest is None else f" of at least {lowest:,}"
    return f" from {lowest:,} to {highest:,}" if lowest is not None else f" up to {highest:,}"
