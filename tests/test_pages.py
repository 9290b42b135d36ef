"""Pages and charts: what is escaped, what is sorted, and that nothing refers to the outside."""

import re
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from keras_imnet64 import charts, pages
from keras_imnet64.charts import Curve
from keras_imnet64.core.errors import printable

EVIL = '<script>alert("x")</script>&amp;$x_1$\x1b[31m'


class Reader(HTMLParser):
    """The elements of a page, the text in each, and every reference."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.references.append(value)

    def handle_data(self, text):
        self.words.append(text)


def page(*bodies):
    sections = [pages.Section(f"part-{n}", EVIL, body) for n, body in enumerate(bodies)]
    return pages.document(EVIL, pages.paragraph(EVIL), sections)


@cache
def drawings(label):
    curves = [Curve(label, (1.0, 2.0), (3.0, 4.0)), Curve("b", (1.0, 2.0), (4.0, 4.0))]
    matrix = np.array([[3.0, 1.0], [0.0, 2.0]])
    return [
        charts.draw_svg(curves, "steps", "loss", markers=True, marks={label: 3.5}),
        charts.bars_svg({label: 3.0, "b": 1.0}, "top-1 (%)"),
        charts.histogram_svg([1.0, 2.0], [0.0, 1.5, 3.0], "x", "classes"),
        charts.heat_map_svg(matrix, [label, "b"], [label, "b"], ("class", "taken for")),
        charts.heat_map_svg(np.ones((60, 60)), [], [], ("class", "taken for")),
        charts.reliability_svg(*np.zeros((3, 2)), np.linspace(0, 1, 3)),
    ]


def test_text_from_anywhere_is_text():
    text = page(
        pages.table([{"a": EVIL, "b": 1}], {"a": EVIL, "b": "b"}),
        pages.bullets([EVIL]) + pages.preformatted(EVIL) + pages.details(EVIL, Markup()),
        pages.tiles({EVIL: EVIL}) + pages.tabs("x", {EVIL: pages.paragraph(EVIL)}),
        pages.gallery([pages.Picture(b"png", (EVIL, EVIL))]),
        pages.figures([(each, EVIL) for each in drawings(EVIL)]),
    )
    read = Reader(text)
    assert read.tags.count("script") == 1  # the one that sorts
    assert "\x1b" not in text and "\\x1b[31m" in text
    assert any("<script>alert" in word for word in read.words)


def test_a_page_refers_to_nothing_outside():
    read = Reader(page(pages.figures([(each, "") for each in drawings("a")])))
    assert {"svg", "use"} <= set(read.tags)
    kinds = {reference[:5] for reference in read.references}
    assert kinds <= {"data:", *(r[:5] for r in read.references if r.startswith("#"))}


def test_charts_follow_the_colours_of_the_page_and_show_their_values():
    svg = drawings("a")[0]
    assert "currentColor" in svg and not re.search("#01020[345]", svg)
    assert "<title>a: loss 3 at steps 1</title>" in svg and svg.count("<title>") == 4
    bars = drawings("a")[1]
    assert re.findall("<title>(.*?)</title>", bars) == ["a: 3", "b: 1"]
    cells = re.findall("<title>(.*?)</title>", drawings("a")[3])
    assert cells == ["a / a: 3", "a / b: 1", "b / b: 2"]  # none for the empty one


def test_names_that_look_like_markup_of_a_chart_stay_as_they_are():
    labels = [' id="', "font: 3px a", "url(#m12)", "#010203", "\x01"]
    curves = [Curve(label, (1.0, 2.0), (3.0, 4.0)) for label in labels]
    counts = np.eye(len(labels))
    for svg in (
        charts.draw_svg(curves, "steps", "loss", marks=dict.fromkeys(labels, 3.5)),
        charts.bars_svg(dict.fromkeys(labels, 3.0), "top-1 (%)"),
        charts.heat_map_svg(counts, labels, labels, ("class", "taken for")),
    ):
        texts = {element.text for element in ElementTree.fromstring(svg).iter()}
        assert {printable(label) for label in labels} <= texts


def test_two_charts_of_a_page_share_no_id():
    curve = Curve("a", (1.0, 2.0), (3.0, 4.0))
    first = charts.draw_svg([curve], "steps", "loss", markers=True)
    second = charts.draw_svg([curve], "minutes", "loss", markers=True)
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r"#(i\w+)", svg)) == own


def test_long_curves_have_a_few_dots():
    x = tuple(map(float, range(1000)))
    svg = charts.draw_svg([Curve("a", x, x)], "steps", "loss", markers=True)
    assert 50 < svg.count("<title>") <= charts.MAX_DOTS


@pytest.mark.parametrize(
    ("value", "shown", "key"), [(1234.5, "1,234.50", "1234.5"), (7, "7", "7"), (None, "-", "-Inf")]
)
def test_numbers_are_sorted_as_numbers(value, shown, key):
    text = pages.table([{"a": value}], {"a": "A"})
    (cell,) = re.findall('<td class="number" data-sort="(.*?)">(.*?)</td>', text)
    assert cell[0].startswith(key) and cell[1] == shown


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0.0000"), (0.5, "0.5000"), (3e-5, "3e-05")])
def test_small_numbers_are_not_shown_as_zero(value, shown):
    assert f">{shown}</td>" in pages.table([{"a": value}], {"a": "A"}, digits=4)
