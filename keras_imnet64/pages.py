"""Builds HTML pages that are one file: they load nothing, and open from disk and on a phone.

Names of runs, layers, classes and files may come from anywhere, so text is escaped by markupsafe:
a `str` is text, and only what this module and `charts` make is `Markup`. The page's content
security policy forbids every request and every script but the one below.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from keras_imnet64.core.console import NOTHING, text_of
from keras_imnet64.core.errors import printable
from keras_imnet64.core.types import Json

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #59626e; --paper: #ffffff;
  --panel: #f5f6f8; --line: #d5dae0; --accent: #2f6fd6; --real: #b3261e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3acb8; --paper: #14171b; --panel: #1e2329; --line: #39414b;
    --accent: #7aa7f5; --real: #ff8a80 } }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .5rem }
h2 { font-size: 1.2rem; margin: 0 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
h1, h2, h3, p, li, summary, figcaption { overflow-wrap: anywhere }
p, ul, figcaption { max-width: 46rem }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.2rem }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 1rem 0 }
a { color: var(--accent) }
.note, figcaption { color: var(--soft); font-size: .9em }
.real { font-weight: 600; color: var(--real) }
.scroll { overflow: auto; max-width: 100%; margin: .8rem 0 }
.tall { max-height: 34rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0;
  border-bottom: 1px solid var(--line) }
thead th { position: sticky; top: 0; background: var(--paper) }
td:not(.number) { min-width: 7rem }
.number { text-align: right }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-align: inherit }
th[aria-sort] button::after { content: " \\2191" }
th[aria-sort="descending"] button::after { content: " \\2193" }
.figures { display: grid; gap: 1rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
figure { margin: 0; min-width: 0 }
svg { display: block; width: 100%; max-width: 36rem; height: auto }
.gallery { display: grid; gap: .8rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }
.gallery img { width: 100%; background: var(--panel); border-radius: 4px }
img { display: block; max-width: 100%; height: auto }
.figures img { width: 100%; max-width: 26rem }
.pixels { image-rendering: pixelated }
.gallery figcaption { line-height: 1.35; margin-top: .3rem }
.tiles { display: grid; gap: .6rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)) }
.tiles div { background: var(--panel); border-radius: 6px; padding: .6rem .8rem }
.tiles b { display: block; font-size: 1.25rem; overflow-wrap: anywhere }
.tabs > input { position: absolute; opacity: 0 }
.tabs > label { display: inline-block; padding: .2rem .8rem; margin-right: .3rem;
  border: 1px solid var(--line); border-radius: 999px; cursor: pointer }
.tabs > input:checked + label { background: var(--accent); color: var(--paper) }
.tabs > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px }
.tabs > .panel { display: none }
.tabs > input:nth-of-type(1):checked ~ .panel:nth-of-type(1),
.tabs > input:nth-of-type(2):checked ~ .panel:nth-of-type(2) { display: block }
details { margin: .8rem 0 }
summary { cursor: pointer; color: var(--accent) }
pre { background: var(--panel); padding: .8rem; border-radius: 6px; overflow: auto }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const rises = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rises ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const words = value => String(value).replaceAll(",", "");
    const order = (a, b) => Number.isNaN(a - b)
      ? words(a).localeCompare(words(b), undefined, {numeric: true}) : a - b;
    const rows = [...body.rows].sort((a, b) => order(key(a), key(b)));
    body.append(...(rises ? rows : rows.reverse()));
  }));
}
"""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'"
)
MAX_LOW = 30  # rows of a table that is shown in its full height
ABSENT = "-Infinity"  # where a cell without a value is sorted


@dataclass(frozen=True)
class Section:
    """A part of a page, which the list at its top links to.

    Attributes:
        anchor: letters and dashes, unique in the page.
    """

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery.

    Attributes:
        png: the content of a PNG file.
        caption: lines of text below it.
    """

    png: bytes
    caption: tuple[str, ...]


def document(title: str, lead: Markup, sections: Sequence[Section] = ()) -> str:
    """Returns a page: a heading, what stands below it, links to the sections, the sections."""
    links = joined(
        Markup('<a href="#{}">{}</a>').format(each.anchor, text(each.title)) for each in sections
    )
    body = joined(
        Markup('<section id="{}"><h2>{}</h2>\n{}</section>\n').format(
            each.anchor, text(each.title), each.body
        )
        for each in sections
    )
    page = Markup(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        "<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        "<h1>{title}</h1>\n{lead}\n{links}{body}"
        "<script>{script}</script>\n</body>\n</html>\n"
    ).format(
        policy=POLICY,
        title=text(title),
        style=Markup(STYLE),
        lead=lead,
        links=Markup("<nav>{}</nav>\n").format(links) if sections else "",
        body=body,
        script=Markup(SCRIPT),
    )
    return str(page)


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def text(value: Json) -> Markup:
    """Returns a value as the console shows it, escaped; control characters appear as escapes."""
    return escape(printable(value) if isinstance(value, str) else text_of(value))


def paragraph(value: str, *, note: bool = False) -> Markup:
    """Returns a paragraph; a note is small and grey."""
    return Markup("<p{}>{}</p>\n").format(Markup(' class="note"') if note else "", text(value))


def heading(value: str) -> Markup:
    """Returns a heading within a section."""
    return Markup("<h3>{}</h3>\n").format(text(value))


def bullets(lines: Iterable[str]) -> Markup:
    return Markup("<ul>{}</ul>\n").format(
        joined(Markup("<li>{}</li>").format(text(line)) for line in lines)
    )


def preformatted(value: str) -> Markup:
    """Returns lines of text as they are."""
    return Markup("<pre>{}</pre>\n").format("\n".join(map(printable, value.splitlines())))


def details(summary: str, body: Markup) -> Markup:
    """Returns a part that is folded until the reader opens it."""
    return Markup("<details><summary>{}</summary>\n{}</details>\n").format(text(summary), body)


def tiles(values: Mapping[str, str]) -> Markup:
    """Returns the few figures that matter most, by their names."""
    return Markup('<div class="tiles">{}</div>\n').format(
        joined(
            Markup("<div>{}<b>{}</b></div>").format(text(name), text(value))
            for name, value in values.items()
        )
    )


def tabs(name: str, panels: Mapping[str, Markup]) -> Markup:
    """Returns two panels of which one is shown, and a switch.

    Args:
        name: letters and dashes, unique in the page.
    """
    switches = joined(
        Markup(
            '<input type="radio" name="{n}" id="{n}-{i}"{on}><label for="{n}-{i}">{t}</label>'
        ).format(n=name, i=number, on=Markup("" if number else " checked"), t=text(title))
        for number, title in enumerate(panels)
    )
    bodies = joined(Markup('<div class="panel">{}</div>').format(each) for each in panels.values())
    return Markup('<div class="tabs">{}{}</div>\n').format(switches, bodies)


def figures(drawings: Iterable[tuple[Markup, str]]) -> Markup:
    """Returns drawings beside each other where there is room.

    Args:
        drawings: (an <svg> or <img>, a line below it or "").
    """
    found = [
        Markup("<figure>{}{}</figure>").format(
            drawing,
            Markup("<figcaption>{}</figcaption>").format(text(caption)) if caption else "",
        )
        for drawing, caption in drawings
    ]
    return Markup('<div class="figures">{}</div>\n').format(joined(found))


def gallery(pictures: Iterable[Picture], *, wide: bool = False) -> Markup:
    """Returns pictures in rows, each with its caption; wide ones get twice the room."""
    return Markup('<div class="gallery{}">{}</div>\n').format(
        Markup(" wide" if wide else ""),
        joined(
            Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(
                image(each.png, each.caption[0]),
                Markup("<br>").join(map(text, each.caption)),
            )
            for each in pictures
        ),
    )


def image(png: bytes, alternative: str) -> Markup:
    """Returns a PNG as an element that holds it; its pixels stay squares when it is enlarged."""
    return Markup('<img class="pixels" alt="{}" src="data:image/png;base64,{}">').format(
        text(alternative), base64.b64encode(png).decode()
    )


def table(
    rows: Sequence[Mapping[str, Json]],
    columns: Mapping[str, str],
    *,
    marked: Sequence[bool] | None = None,
    digits: int = 2,
) -> Markup:
    """Returns rows as a table that a click on a heading sorts.

    Args:
        rows: plain values by column.
        columns: {key: heading}; a column without a text in it is aligned to the right.
        marked: which rows stand out.
        digits: behind the point of floats.
    """
    numeric = {key for key in columns if all(_is_number(row[key]) for row in rows)}
    head = joined(
        Markup("<th{}><button>{}</button></th>").format(_class(key in numeric), text(heading))
        for key, heading in columns.items()
    )
    lines = [
        Markup("<tr{}>{}</tr>\n").format(
            Markup(' class="real"') if is_marked else "",
            joined(_cell(row[key], key in numeric, digits) for key in columns),
        )
        for row, is_marked in zip(rows, marked or [False] * len(rows), strict=True)
    ]
    return Markup(
        '<div class="scroll{}" tabindex="0"><table class="sortable"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>\n"
    ).format(Markup(" tall" if len(rows) > MAX_LOW else ""), head, joined(lines))


def _is_number(value: Json) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _class(is_number: bool) -> Markup:
    return Markup(' class="number"' if is_number else "")


def _cell(value: Json, is_number: bool, digits: int) -> Markup:
    if not is_number:
        return Markup("<td>{}</td>").format(text(value))
    is_shown = isinstance(value, float) and (value == 0 or abs(value) >= 10.0**-digits)
    shown = f"{value:,.{digits}f}" if is_shown else text_of(value)
    key = ABSENT if shown == NOTHING else repr(value)
    return Markup('<td class="number" data-sort="{}">{}</td>').format(key, shown)
