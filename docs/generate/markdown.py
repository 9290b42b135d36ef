"""Writes Markdown: headings with anchors, tables, code, and texts of the code as prose."""

import inspect
import re
from collections.abc import Iterable, Sequence

CODE_SPAN = re.compile(r"(``.+?``|`[^`]+`)")
SPECIAL = re.compile(r"([\\*_\[\]{}|])")
PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")
KEY = re.compile(
    r"(?<![\w`.])((?:model|data|loss|optimizer|schedule|train|evaluation)\.[a-z]\w*(?:\.\w+)*)"
)
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):$", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w[\w, ]*): (.+?)(?=^    \S|\Z)", re.MULTILINE | re.DOTALL)


def page(title: str, *parts: str) -> str:
    """Returns a page: its title, and its parts with an empty line before each."""
    return "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"


def heading(level: int, text: str, anchor: str) -> str:
    return f"{'#' * level} {text} {{ #{anchor} }}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of Markdown cells; an empty text if there are no rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", "|" + "---|" * len(headings), *lines])


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def code(text: object, anchor: str = "") -> str:
    """Returns a text as code within a line, which links reach with `#anchor`."""
    quotes = "``" if "`" in str(text) else "`"
    return f"{quotes}{text}{quotes}" + (f"{{ #{anchor} }}" if anchor else "")


def fence(text: str, language: str = "") -> str:
    """Returns a block of code."""
    return f"```{language}\n{text.strip()}\n```"


def folded(title: str, text: str) -> str:
    """Returns a block that a reader opens."""
    indented = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
    return f'??? note "{title}"\n\n{indented}'


def prose(text: str) -> str:
    """Returns a text of the code, such as a docstring, as Markdown in one paragraph.

    Code in backquotes stays, dotted keys of recipes become code, papers become links; what Markdown
    would take for its own is escaped.
    """
    parts = CODE_SPAN.split(" ".join(text.split()))
    return "".join(part if i % 2 else _plain(part) for i, part in enumerate(parts))


def _plain(text: str) -> str:
    pieces = KEY.split(text)
    return "".join(code(p) if i % 2 else _escaped(p) for i, p in enumerate(pieces))


def _escaped(text: str) -> str:
    escaped = SPECIAL.sub(r"\\\1", text).replace("<", "&lt;")
    return PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", escaped)


def paragraphs(text: str) -> str:
    """Returns a docstring as Markdown: all of its paragraphs, without sections such as "Args:"."""
    intro = SECTION.split(inspect.cleandoc(text))[0]
    return "\n\n".join(prose(part) for part in intro.strip().split("\n\n") if part.strip())


def entries(docstring: str, section: str) -> dict[str, str]:
    """Returns {name: text} of a section of a docstring, such as "Args" or "Attributes".

    An entry may describe several names, as in "top1, top5: accuracies".
    """
    parts = SECTION.split(inspect.cleandoc(docstring))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    found: dict[str, str] = {}
    for names, text in ENTRY.findall(sections.get(section, "")):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
