"""The pictures of a sweep: which there are, and what their axes and cells say."""

import re
from itertools import product

import pytest

from keras_imnet64.charts import PAPER, figure_svg
from keras_imnet64.sweep.pictures import (
    FADED,
    best_of_pair,
    drawings,
    heat_map,
    line_tips,
    pictures,
)
from keras_imnet64.sweep.records import CellRecord, RangeRecord, SweepRecord
from keras_imnet64.sweep.results import best_setting, summarize

RATES = {"optimizer.learning_rate": [0.01, 0.1]}
DECAYS = {"loss.l2": [0.0, 0.001, 0.002]}
NAMES = {"optimizer.name": ["sgd", "muon"]}


def record(keys, scores, *, num_seeds=1, ranges=None, trials=None):
    """A sweep whose cells have these scores; None for a cell that was not finite.

    keys: {key: values} of a grid; with `trials`, the values of each trial.
    """
    settings = trials or [dict(zip(keys, each, strict=True)) for each in product(*keys.values())]
    found = [
        CellRecord(
            number,
            f"cell-{number:03}",
            settings[number // num_seeds],
            number % num_seeds,
            "not finite" if each is None else "finished",
            val_top1=each,
            epochs=2,
        )
        for number, each in enumerate(scores)
    ]
    summary = summarize(found, num_seeds)
    return SweepRecord(
        name="small",
        recipe="",
        keys=keys,
        ranges=ranges or {},
        seeds=list(range(num_seeds)),
        trials=len(scores) if trials else None,
        held_out=16,
        cells=found,
        settings=summary,
        best=best_setting(summary),
    )


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (RATES, ["curve-optimizer.learning_rate"]),
        (NAMES, ["curve-optimizer.name"]),
        (RATES | DECAYS, ["heat-map-optimizer.learning_rate-loss.l2"]),
        (
            RATES | DECAYS | NAMES,
            [
                "heat-map-optimizer.learning_rate-loss.l2",
                "heat-map-optimizer.learning_rate-optimizer.name",
                "heat-map-loss.l2-optimizer.name",
                "parallel-coordinates",
            ],
        ),
        (RATES | {"train.epochs": [3]}, ["curve-optimizer.learning_rate"]),  # one value each
    ],
)
def test_each_pair_of_keys_has_a_heat_map(keys, names):
    scores = [50.0 + n for n, _ in enumerate(product(*keys.values()))]
    assert list(pictures(record(keys, scores))) == names


def test_nothing_is_drawn_before_a_cell_is_finished():
    assert pictures(record(RATES, [None, None])) == {}
    assert pictures(record({}, [50.0, 51.0], num_seeds=2)) == {}  # seeds alone


def test_cells_of_a_heat_map_have_mean_and_spread_or_their_state():
    scores = [50.0, 52.0, 60.0, 60.0, None, None, 41.5, None, 30.0, 31.0, 70.0, 70.0]
    figure = heat_map(record(RATES | DECAYS, scores, num_seeds=2), *RATES, *DECAYS)
    assert texts(figure) == [
        "51.00\n± 1.41",
        "60.00\n± 0.00",
        "not finite",
        "41.50",
        "30.50\n± 0.71",
        "70.00\n± 0.00",
    ]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.002"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.01", "0.1"]
    assert axes.get_title() == "held-out top-1 (%), mean ± standard deviation of 2 seeds"


def test_a_pair_shows_the_best_over_the_other_keys():
    made = record(
        RATES | NAMES | {"train.epochs": [1, 2]}, [1.0, 2.0, 9.0, 3.0, 5.0, 4.0, 7.0, 8.0]
    )
    best = best_of_pair(made, {"optimizer.learning_rate": 0.01, "optimizer.name": "muon"})
    assert (best.mean, best.values["train.epochs"]) == (9.0, 1)
    figure = heat_map(made, *RATES, *NAMES)
    assert texts(figure) == ["2.00", "9.00", "5.00", "8.00"]
    assert "of each pair the best over the other keys" in figure.axes[0].get_title()


def test_a_search_has_a_line_for_each_trial_on_the_scale_of_its_range():
    trials = [{"loss.l2": 0.001, "optimizer.learning_rate": rate} for rate in (0.001, 0.01, 0.1)]
    made = record(
        {"loss.l2": [0.0, 0.001]},
        [50.0, None, 60.0],
        ranges={"optimizer.learning_rate": RangeRecord(0.001, 0.1, True, False)},
        trials=trials,
    )
    (figure,) = pictures(made).values()
    lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) > 2]
    assert [y for line in lines for y in line] == pytest.approx([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    (pruned,) = [
        line.get_ydata()
        for line in figure.axes[0].lines
        if len(line.get_ydata()) == 2 and line.get_color() == FADED
    ]
    assert list(pruned) == pytest.approx([1.0, 0.5])
    assert {"0.001", "0.01", "0.1", "50.00", "60.00"} <= set(texts(figure))


def test_the_picture_of_a_page_follows_its_colours_and_says_what_a_line_is():
    scores = [50.0 + n for n in range(12)]
    made = record(RATES | DECAYS | NAMES, scores)
    draw = drawings(made, PAPER)["parallel-coordinates"]
    svg = figure_svg(draw, "parallel <coordinates>", line_tips(made))
    assert "optimizer.learning_rate=0.1 loss.l2=0.002 optimizer.name=muon: 61.00 %</title>" in svg
    assert "var(--paper)" in svg and "currentColor" in svg
    assert not {"#010203", "#010206", "<coordinates>"} & set(
        re.findall(r"#01020\d|<coord\w+>", svg)
    )


def test_text_of_recipes_is_no_formula():
    made = record({"optimizer.name": ["$a$", "b"]}, [50.0, 60.0])
    (figure,) = pictures(made).values()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [r"\$a\$", "b"]
