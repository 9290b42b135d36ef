"""The curves command: what stands in the picture, read from runs' histories worked by hand."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_imnet64 import curves
from keras_imnet64.charts import MAX_IN_PLOT, Curve, draw
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_csv
from keras_imnet64.curves import draw_runs, read_curve

TOP1 = (10.0, 25.0, 40.0)


def make_run(folder, **columns):
    """Writes a run folder with a history of these columns."""
    folder.mkdir()
    (folder / "recipe.toml").write_text('name = "toy"\n')
    values = zip(*columns.values(), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    write_csv(folder / "history.csv", list(columns), rows)
    return folder


@pytest.fixture
def toy(tmp_path):
    """Three epochs of 60 s, of which the steps take 50."""
    return make_run(
        tmp_path / "toy",
        epoch=(1, 2, 3),
        val_top1=TOP1,
        val_loss=(3.0, 2.0, 2.5),
        seconds=(50, 50, 50),
        training_seconds=(60, 120, 180),
    )


def test_minutes_are_those_of_the_wall_clock(toy):
    assert read_curve(toy, "minutes", "val_top1", "toy") == Curve("toy", (1, 2, 3), TOP1)
    assert read_curve(toy, "epochs", "val_loss", "toy") == Curve("toy", (1, 2, 3), (3.0, 2.0, 2.5))


def test_epochs_without_scores_are_left_out(tmp_path):
    run = make_run(
        tmp_path / "seldom",
        epoch=(1, 2, 3, 4),
        val_top1=("", "25.0", "", "40.0"),
        seconds=(30, 60, 90, 120),
    )
    assert read_curve(run, "epochs", "val_top1", "seldom") == Curve("seldom", (2, 4), (25.0, 40.0))
    steps_alone = Curve("seldom (steps alone)", (1.5, 5.0), (25.0, 40.0))
    assert read_curve(run, "minutes", "val_top1", "seldom") == steps_alone


@pytest.mark.parametrize("recorded", [None, ("60", "", "180")])
def test_a_run_that_did_not_record_them_has_those_of_its_steps_and_says_so(recorded, tmp_path):
    columns = {"epoch": (1, 2, 3), "val_top1": TOP1, "seconds": (30, 60, 90)}
    if recorded:
        columns["training_seconds"] = recorded
    run = make_run(tmp_path / "old", **columns)
    assert read_curve(run, "minutes", "val_top1", "old") == Curve(
        "old (steps alone)", (0.5, 1.5, 3.0), TOP1
    )


def drawn(monkeypatch, *arguments, **options):
    """The axes of the figure that `draw` made."""
    from matplotlib import figure

    made = []

    class Kept(figure.Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(figure, "Figure", Kept)
    picture = draw(*arguments, **options)
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    num_labels = len(arguments[0]) + len(options.get("marks") or {})
    width = 1360 if num_labels > MAX_IN_PLOT else 1040
    assert image.shape == (640, width) and image.min() < 50  # something dark on white
    (axes,) = made[0].axes
    return axes


def test_the_picture_has_the_points_titles_and_marks(monkeypatch):
    lines = [Curve("a", (1.0, 2.0), (10.0, 20.0)), Curve("_b $5$", (1.0, 3.0), (5.0, 30.0))]
    axes = drawn(monkeypatch, lines, "minutes", "top-1 (%)", marks={"published": 65.5})
    first, second, mark = axes.lines
    assert [tuple(first.get_xdata()), tuple(first.get_ydata())] == [(1.0, 2.0), (10.0, 20.0)]
    assert tuple(second.get_ydata()) == (5.0, 30.0)
    assert set(mark.get_ydata()) == {65.5}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("minutes", "top-1 (%)")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["a", r" _b \$5\$", "published: 65.5"]
    assert axes.get_xlim()[0] == 0


def test_ten_curves_have_ten_colours(monkeypatch):
    lines = [Curve(str(n), (0.0, 1.0), (0.0, float(n))) for n in range(curves.MAX_CURVES)]
    axes = drawn(monkeypatch, lines, "x", "y")
    assert len({line.get_color() for line in axes.lines}) == curves.MAX_CURVES


def test_many_labels_stand_beside_the_plot(monkeypatch):
    """So that they cover no curve."""
    lines = [Curve(str(n), (0.0, 1.0), (0.0, float(n))) for n in range(MAX_IN_PLOT + 1)]
    few = drawn(monkeypatch, lines[:-1], "x", "y")
    assert few.get_legend() is not None and not few.figure.legends
    many = drawn(monkeypatch, lines, "x", "y")
    assert many.get_legend() is None
    (legend,) = many.figure.legends
    assert legend.get_window_extent().x0 > many.get_window_extent().x1


def test_the_command_writes_the_picture_and_says_what_is_in_it(toy, tmp_path, run):
    out = tmp_path / "curves.png"
    status, text, _ = run(
        "curves", toy, "--out", out, "--metric", "val_loss", "--published", "paper=1.5", "--json"
    )
    assert status == 0 and out.read_bytes().startswith(b"\x89PNG")
    assert json.loads(text) == {
        "out": str(out),
        "metric": "val_loss",
        "against": "minutes",
        "runs": [{"run": "toy", "minutes": 3.0, "best": 2.0, "last": 2.5}],
    }
    status, text, _ = run("curves", toy, "--out", out, "--against", "epochs")
    assert status == 0 and text.splitlines()[-1].split() == ["toy", "3", "40", "40"]


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    columns = {"epoch": (1, 2), "val_top1": (1.0, 2.0), "seconds": (60, 60)}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [make_run(tmp_path / folder / "toy", **columns) for folder in ("a", "b")]
    rows = draw_runs(paths, tmp_path / "curves.png")["runs"]
    assert [row["run"] for row in rows] == [f"{path} (steps alone)" for path in paths]


def test_the_picture_says_which_images_are_scored(small_recipe, tmp_path, monkeypatch):
    """Those held out of training, or those of the validation split; labels tell where both are."""
    columns = {"epoch": (1, 2), "val_top1": (1.0, 2.0), "seconds": (60, 60)}
    runs = []
    for name, holdout in (("held", 16), ("plain", 0)):
        runs.append(make_run(tmp_path / name, **columns))
        recipe = small_recipe(data={"holdout": holdout})
        (runs[-1] / "recipe.toml").write_text(recipe.to_toml())
    drawn = []
    monkeypatch.setattr(
        curves, "draw", lambda lines, x, y, **_: drawn.append(([c.label for c in lines], y)) or b""
    )

    def picture(*runs):
        draw_runs(runs, tmp_path / "curves.png", against="epochs")
        return drawn[-1]

    assert picture(runs[0]) == (["held"], "top-1 of held-out images (%)")
    assert picture(runs[1]) == (["plain"], "top-1 of validation images (%)")
    both = ["held, held-out images", "plain, validation images"]
    assert picture(*runs) == (both, "top-1 of scored images (%)")
    (runs[0] / "recipe.toml").write_text("damaged")
    assert picture(runs[0]) == (["held"], "top-1 of scored images (%)")


def test_what_cannot_be_drawn_is_said_in_a_sentence(toy, tmp_path):
    out = tmp_path / "curves.png"

    def refused(sentence, *runs, **options):
        with pytest.raises(UserError, match=sentence):
            draw_runs(runs, out, **options)
        assert not out.exists()

    refused("nothing is not a run folder", tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.toml").write_text("")
    refused("begun has no history.csv: no epoch of it is finished", tmp_path / "begun")
    short = make_run(tmp_path / "short", epoch=(1,), val_top1=(1.0,), training_seconds=(5,))
    refused("two finished epochs with a val_top1; the run in .*short has 1", short)
    refused('no curve of "val_topp1": did you mean "val_top1"', toy, metric="val_topp1")
    refused("has at most 10 runs; received 11", *[toy] * 11)
    broken = make_run(tmp_path / "broken", epoch=(1, 2), val_top1=(1.0, "nan"), seconds=(1, 1))
    refused("column val_top1 does not hold a number for each epoch", broken)
