"""The pages that people write, README.md and those of docs/, and the code in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = {  # {name: text} of the pages that people write
    str(file.relative_to(ROOT)): file.read_text("utf-8")
    for file in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPERATORS = set("&|;<>()")
OUR_PROGRAMS = ("cli.py", "keras-imnet64")
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]+|\$\w+")  # such as SEED, ARCHIVES or $seed


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def blocks(pages, *languages):
    """The blocks of pages in some languages, without their indentation."""
    found = []
    for page, text in pages.items():
        for indent, language, body in BLOCK.findall(text):
            if language in languages:
                lines = [line.removeprefix(indent) for line in body.splitlines()]
                found.append(Block(page, language, "\n".join(lines) + "\n"))
    return found


def shell_lines(block):
    """The command lines of a block of shell, without comments; of a session, those after "$ "."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return lines


def programs(line):
    """The argument lists of the programs that a command line runs, in their order."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands = [[]]
    for token in lexer:
        if set(token) <= OPERATORS:
            commands.append([])
        else:
            commands[-1].append(token)
    return [command for command in commands if command]


def our_arguments(program):
    """What stands behind `cli.py` or `keras-imnet64`; None for another program."""
    for number, word in enumerate(program):
        if Path(word).name in OUR_PROGRAMS:
            return program[number + 1 :]
    return None
