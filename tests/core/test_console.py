"""What reaches a terminal or a pipe: tables, colours, names that would move the cursor."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_imnet64.core.console import show, show_table, text_of
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import check_output_file

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-9]|4[0-9]|9[0-9])[0-9;]*m")
BAR = """
from keras_imnet64.cli.frame import packing_bar
with packing_bar() as progress:
    for done in range(5):
        progress("packing", done, 5)
"""


def on_a_terminal(code, **environment):
    """What a program writes to standard output and error when both are a terminal."""
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | terminal | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0, written
    return written.decode()


def test_bars_have_colours_on_a_terminal_only_and_no_color_takes_them():
    assert COLOUR.search(on_a_terminal(BAR))
    plain = on_a_terminal(BAR, NO_COLOR="1")
    assert "packing" in plain
    assert not COLOUR.search(plain)
    piped = subprocess.run(
        [sys.executable, "-c", BAR], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (piped.stdout, piped.stderr) == ("", "packing ...\n")


def test_a_table_in_a_pipe_has_no_escapes_and_is_not_wrapped(capsys):
    show_table([{"name": "x" * 300, "count": 1234567}], {"name": "class", "count": "pictures"})
    header, rule, row = capsys.readouterr().out.splitlines()[-3:]
    assert header.split() == ["class", "pictures"]
    assert set(rule.strip()) <= set("─╶╴ ")
    assert row.split() == ["x" * 300, "1,234,567"]


def test_names_cannot_move_the_cursor_or_forge_a_line(capsys):
    name = "cat\x1b[2J\x1b[31m\nrow \x07[bold]b\udcff"
    shown = r"cat\x1b[2J\x1b[31m\nrow \x07[bold]b\udcff"
    show_table([{"name": name}], {"name": "class"})
    assert shown in capsys.readouterr().out
    show({"name": name, "names": [name, "dog"]}, as_json=False)
    assert capsys.readouterr().out == f"name           {shown}\nnames          {shown}, dog\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        (True, "yes"),
        (1281167, "1,281,167"),
        (59.9, "59.9"),
        (1 / 3, "0.3333"),
        (4.94e-5, "4.94e-05"),
        (-3e-7, "-3e-07"),
        (0.0, "0"),
        ([1, "a"], "1, a"),
    ],
)
def test_values_as_people_read_them(value, text):
    assert text_of(value) == text


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    """As root a device would be renamed away; through a link another file would be."""
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    for name in ("folder.csv", "pipe.csv", "link.csv"):
        with pytest.raises(UserError, match="is not a plain file"):
            check_output_file(tmp_path / name, ".csv")
    for path in ("/dev/null", tmp_path / "recipe.toml"):
        with pytest.raises(UserError, match=r"name ends in \.csv"):
            check_output_file(path, ".csv")
    (tmp_path / "old.csv").write_text("")
    check_output_file(tmp_path / "old.csv", ".csv")
    check_output_file(tmp_path / "new.csv", ".csv")


def test_a_table_that_is_too_wide_for_a_terminal_becomes_blocks():
    """No name and no number is split, and what stands above a group is told."""
    code = "from keras_imnet64.cli import cli; cli(['recipes'])"
    blocks = on_a_terminal(code, NO_COLOR="1", COLUMNS="60")
    assert "\r\nrecipe         tiny20_wrn_cutout\r\n" in blocks
    assert "\r\nparams         37.6 M\r\n" in blocks
    assert "\r\ntiny_imagenet, 20 classes\r\n\r\nrecipe         spectral_tiny20_sub4" in blocks
    assert "\r\nrecipe         tiny20_wrn_cutout\r\n" not in on_a_terminal(code, NO_COLOR="1")


def test_columns_of_numbers_are_aligned_to_the_right(capsys):
    rows = [
        {"name": "a", "count": 7, "share": -0.25, "size": "61.1 M", "date": "7 of 9", "set": "x"},
        {"name": "bc", "count": 1234, "share": None, "size": None, "date": "10 of 12", "set": "y"},
    ]
    show_table(rows, {key: key for key in rows[0] if key != "set"}, group="set")
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "name  count  share    size  date"
    assert lines == [
        "x",
        "a         7  -0.25  61.1 M  7 of 9",
        "",
        "y",
        "bc    1,234      -       -  10 of 12",
    ]


def test_numbers_that_json_lacks_are_null(capsys):
    show({"loss": float("nan"), "pairs": [{"share": float("inf")}]}, as_json=True)
    assert capsys.readouterr().out == '{"loss": null, "pairs": [{"share": null}]}\n'
