"""What messages keep of the texts that they quote, and what they escape."""

import unicodedata

import pytest

from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.runs import classes_text


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # joiners are part of Persian and Hindi words
        "👩\u200d🔬",
        "犬\u3000猫",  # an ideographic space
        "Screenshot 9.41\u202fAM.png",  # as macOS writes the time
        "à la\u00a0carte",
        "a\\b 'c' \"d\"",
    ],
)
def test_words_of_any_language_stay_as_they_are(text):
    assert printable(text) == text
    assert classes_text([text]) == f"{text}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u2028b", r"a\u2028b"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_could_forge_a_line_is_escaped(text, shown):
    assert printable(text) == shown == str(UserError(text))


def test_nothing_that_a_terminal_obeys_is_kept():
    every = "".join(map(chr, range(0x11000)))
    kept = {unicodedata.category(character) for character in printable(every)}
    assert not kept & {"Cc", "Cs", "Zl", "Zp"}
