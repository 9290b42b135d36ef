"""The documentation: its commands are understood, its recipes load, its numbers are the code's.

MkDocs checks links and anchors when `.ci/run` builds the site. `test_first_steps.py` runs the
transcript and the Python of all pages.
"""

import copy
import re
from itertools import pairwise

import click
import documents
import pytest
from generate import PAGES, recipes
from generate.commands import walk
from generate.facts import files_of_a_run
from generate.markdown import entries, paragraphs, prose

from keras_imnet64.cli import cli
from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models import find_model
from keras_imnet64.recipe.listing import facts
from keras_imnet64.recipe.loading import (
    check_recipe,
    list_recipes,
    load_recipe,
    override,
    parse_override,
    parse_toml,
    read_content,
)
from keras_imnet64.sweep.axes import parse_axis
from keras_imnet64.sweep.plan import plan_grid
from keras_imnet64.sweep.search import plan_search
from keras_imnet64.sweep.space import parse_space

GENERATED = {page: make() for page, make in PAGES.items()}
PAGES_AND_README = documents.WRITTEN | GENERATED
BASE = {  # a part of a recipe is tried on this one
    "name": "shown",
    "model": {"name": "wide_resnet", "depth": 36, "width": 2},
    "data": {"dataset": "imagenet_resized/64x64", "batch_size": 128},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "train": {"epochs": 40},
}
SHELL = ("sh", "console")


def command_lines():
    """(page, arguments) of every command of ours in a block of shell."""
    return [
        (block.page, arguments)
        for block in documents.blocks(PAGES_AND_README, *SHELL)
        for line in documents.shell_lines(block)
        for program in documents.programs(line)
        if (arguments := documents.our_arguments(program))
    ]


def spans():
    """(page, arguments) of code within lines that is a command of ours with arguments."""
    found = []
    for page, text in documents.WRITTEN.items():
        for span in documents.SPAN.findall(documents.BLOCK.sub("", text)):
            try:
                (program,) = documents.programs(span)
            except ValueError:  # not one command line
                continue
            arguments = documents.our_arguments(program) or program
            if len(arguments) > 1 and arguments[0] in cli.commands:
                found.append((page, arguments))
    return found


def filled(arguments):
    """Arguments with 1 in place of words such as SEED, which a reader replaces."""
    return [documents.PLACEHOLDER.sub("1", word) for word in arguments]


def command_of(arguments):
    """The command that the first words name, the words of its path, and the other arguments."""
    command, path, rest = cli, [], list(arguments)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    assert command is not cli, f"{arguments} names no command"
    return command, path, rest


def values(rest, option):
    """What stands behind an option."""
    return [after for word, after in pairwise(rest) if word == option]


def check_values(path, rest):
    """Names of recipes, data sets and settings exist; settings fit the recipe that is named."""
    settings = [text for text in filled(values(rest, "--set")) if text != "1=1"]
    if path in (["fit"], ["bench"], ["data", "preview"], ["recipes", "show"]):
        names = values(rest, "--recipe") if path[0] != "recipes" else rest[:1]
        shipped = [name for name in names if name in list_recipes()]
        others = [name for name in names if not documents.PLACEHOLDER.search(name)]
        assert [n for n in others if n not in shipped and not n.endswith(".toml")] == []
        load_recipe((shipped or ["demo"])[0], settings)
    elif path == ["sweep"]:
        check_sweep(rest)
    elif path == ["convert"]:
        for model in values(rest, "--model"):
            known = find_model(model).options.model_fields.keys()
            assert {key for setting in settings for key in parse_override(setting)} <= known
    for dataset in values(rest, "--dataset") + (rest[:1] if path[0] == "data" else []):
        if not dataset.startswith("-") and not documents.PLACEHOLDER.fullmatch(dataset):
            find_dataset(dataset)


def check_sweep(rest):
    """Its grid or space fits the recipe that is named."""
    (name,) = values(rest, "--recipe")
    content = read_content(name if name in list_recipes() else "demo", values(rest, "--set"))
    if "--search" in rest:
        plan_search(content, [parse_space(line) for line in values(rest, "--space")], 2)
    else:
        plan_grid(content, [parse_axis(line) for line in values(rest, "--grid")], 2)


def ids(pairs):
    return [f"{page}: {' '.join(arguments)}" for page, arguments in pairs]


@pytest.mark.parametrize(("page", "arguments"), command_lines(), ids=ids(command_lines()))
def test_commands_are_understood(page, arguments):
    """Options exist, have values of their kinds, and none that is needed is missing."""
    command, path, rest = command_of(arguments)
    if "--help" in rest:
        return
    quiet = [word for word in filled(rest) if word not in ("-v", "--verbose")]
    command.make_context(" ".join(path), quiet)
    check_values(path, rest)


@pytest.mark.parametrize(("page", "arguments"), spans(), ids=ids(spans()))
def test_code_within_lines_is_understood(page, arguments):
    """It may leave out arguments; the options that it has exist."""
    command, path, rest = command_of(arguments)
    known = {option for p in command.params for option in p.opts + p.secondary_opts} | {"--help"}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known
    if "..." not in rest:
        check_values(path, rest)


@pytest.mark.parametrize(
    "line",
    [
        "python cli.py fits --recipe demo",
        "python cli.py fit --recipes demo",
        "python cli.py fit --recipe demon",
        "python cli.py fit",
        "python cli.py fit --recipe demo --set train.epoch=2",
        "python cli.py fit --recipe demo --set 'model.stem=\"small\"'",
        "python cli.py fit --recipe demo --jobs two",
        "python cli.py sweep --recipe demo --grid optimizer.rate=1,2",
        "python cli.py sweep --recipe demo --search 9 --space optimizer.learning_rate=2..1",
        "python cli.py data info shape",
        "(cd there && keras-imnet64 export RUN --formats keras) > log",
    ],
)
def test_a_wrong_command_is_seen(line):
    (arguments,) = filter(None, map(documents.our_arguments, documents.programs(line)))
    with pytest.raises((AssertionError, UserError, click.UsageError)):
        test_commands_are_understood("", arguments)


def test_every_command_is_shown_to_newcomers():
    """A guide, the first steps or the README has each command; the reference has all options."""
    shown = {tuple(command_of(a)[1]) for page, a in command_lines() if page in documents.WRITTEN}
    shown |= {tuple(command_of(arguments)[1]) for _, arguments in spans()}
    paths = [context.command_path.split()[1:] for context in walk(click.Context(cli, None, "cli"))]
    assert [path for path in paths if not any(s[: len(path)] == tuple(path) for s in shown)] == []


def test_scripts_that_pages_run_exist():
    named = {
        word
        for block in documents.blocks(PAGES_AND_README, *SHELL)
        for line in documents.shell_lines(block)
        for program in documents.programs(line)
        for word in program
        if word.endswith(".py")
    }
    assert "cli.py" in named
    assert [name for name in sorted(named) if not (documents.ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "block", documents.blocks(PAGES_AND_README, "toml"), ids=lambda block: block.page
)
def test_recipes_are_recipes(block):
    """A block is a recipe, or a part of one that works within another recipe."""
    content = parse_toml(block.text)
    if not BASE.keys() <= content.keys() | {"name"}:
        base = copy.deepcopy(BASE)
        override(base, content)
        content = base
    check_recipe({"name": "shown"} | content)


# ------------------------------------------------------------------------------------- links


def test_links_of_the_readme_and_contributing_lead_somewhere():
    """MkDocs checks the links between pages of docs/."""
    for page in ("README.md", "CONTRIBUTING.md"):
        targets = re.findall(r"\]\(([^)#]+?)(?:#[\w-]+)?\)", documents.WRITTEN[page])
        local = [target for target in targets if "://" not in target]
        assert local or page != "README.md"
        assert [t for t in local if not (documents.ROOT / t).exists()] == []


def test_pages_of_the_site_are_those_in_docs():
    """The navigation names each page that is written or generated, and no other."""
    text = (documents.ROOT / "mkdocs.yml").read_text()
    named = re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE)
    written = {name.removeprefix("docs/") for name in documents.WRITTEN if name.startswith("docs/")}
    assert sorted(named) == sorted(written | GENERATED.keys() | {"contributing.md"})


# ----------------------------------------------------------------------------- claimed numbers


SOURCES = ("published", "tensorflow", "jax")
RECIPE = re.compile(r"\**`(?:fit --recipe )?(\w+)")  # of a first cell
RESULT = re.compile(r"(?:about )?([\d.]+)(?: / ([\d.]+))?( %)?")


def rows_of_recipes(text):
    """(recipe, headings, cells) of each row of a table whose first cell names a recipe."""
    headings = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| ") and not headings:
            headings = cells
        elif not line.startswith("|"):
            headings = []
        name = RECIPE.match(cells[0])
        if line.startswith("| ") and name and name[1] in list_recipes():
            yield name[1], headings, cells


def claims():
    return [
        (page, name, dict(zip(headings, cells, strict=True)))
        for page, text in documents.WRITTEN.items()
        for name, headings, cells in rows_of_recipes(text)
        if headings and headings[0] in ("recipe", "command")
    ]


def claimed_results(row):
    """(source, [top1, top5]) of each cell that has a result; of "not yet run", (source, None).

    "71.92 %" and "41.8 / 77.2 %" are accuracies, "40.1 / 10.6" are errors. The heading or the cell
    names the source. A command without --set has the recipe's own result under "top-1".
    """
    command = row.get("command", "")
    for heading, cell in row.items():
        words = f"{heading} {cell}".lower().split()
        sources = [source for source in SOURCES if source in words]
        if heading.startswith("top-1") and command and "--set" not in command:
            sources = ["jax" if "--backend jax" in command else "tensorflow"]
        if len(sources) != 1:
            continue
        found = RESULT.match(cell)
        if cell == "not yet run":
            yield sources[0], None
        elif found and (found[2] or found[3]):
            numbers = [float(number) for number in found.groups()[:2] if number]
            yield sources[0], numbers if found[3] else [100 - number for number in numbers]


def stated_results(name):
    """{source: [top1, top5]} of a recipe's [reference] and [measured], as accuracies in percent."""
    known = facts(load_recipe(name))
    stated = known["measured"] | ({"published": known["published"]} if known["published"] else {})
    return {source: accuracies(result) for source, result in stated.items()}


def accuracies(result):
    errors = [result.get(f"{key}_error") for key in ("top1", "top5")]
    known = [None if error is None else 100 - error for error in errors]
    return [result.get(key, other) for key, other in zip(("top1", "top5"), known, strict=True)]


@pytest.mark.parametrize(("page", "name", "row"), claims())
def test_results_are_those_that_the_recipe_states(page, name, row):
    stated = stated_results(name)
    for source, found in claimed_results(row):
        if found is None:
            assert source not in stated
        else:
            assert source in stated, f"{page} claims what {name} does not state: {row}"
            assert found == pytest.approx(stated[source][: len(found)], abs=1e-6), (page, row)
    assert row.get("backend", "").lower() in ("", *(source for source, _ in claimed_results(row)))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("resnet50_64", {"recipe": "**`resnet50_64`**", "published top-1": "71.93 %"}),
        ("wide_resnet50_2_64", {"recipe": "", "published top-1": "about 70 %"}),
        ("tiny20_wrn", {"recipe": "", "TensorFlow": "40.1 / 10.7"}),
        ("tiny20_wrn", {"recipe": "", "JAX": "40.3 / 10.0"}),
        ("tiny20_wrn", {"recipe": "", "JAX": "not yet run"}),
        ("tiny20_resnet18", {"recipe": "", "JAX": "50.2 %"}),
        ("demo", {"command": "`fit --recipe demo --backend jax`", "top-1": "99.7 % of 1,000"}),
        ("demo", {"command": "`fit --recipe demo`", "backend": "JAX", "top-1": "99.7 % of 1,000"}),
        ("tiny_cnn1", {"command": "`fit --recipe tiny_cnn1 --set a=1`", "published": "43.9 %, 2"}),
    ],
)
def test_a_wrong_result_is_seen(name, row):
    with pytest.raises(AssertionError):
        test_results_are_those_that_the_recipe_states("", name, row)


def test_pages_claim_results():
    """The test above is not an empty one."""
    counted = {page: 0 for page, _, _ in claims()}
    for page, _, row in claims():
        counted[page] += sum(found is not None for _, found in claimed_results(row))
    assert counted["README.md"] >= 11
    assert counted["docs/guides/imagenet64.md"] >= 8
    assert counted["docs/results/accuracy.md"] >= 22


# --------------------------------------------------------------------------- generated reference


def test_options_of_every_command_are_in_the_reference():
    text = GENERATED["reference/commands.md"]
    contexts = list(walk(click.Context(cli, info_name="python cli.py")))
    assert len(contexts) > 15
    for context in contexts:
        section = text.partition(f"{{ #{context.command_path[14:].replace(' ', '-')} }}")[2]
        section = section.partition("\n## ")[0]
        shown = set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE))
        options = [p for p in context.command.params if isinstance(p, click.Option)]
        own = {p.opts[0] for p in options if not p.hidden and p.name != "verbose"}
        assert shown == own, context.command_path


def test_a_run_folder_is_described_file_by_file():
    files = [row[0].strip("`") for row in files_of_a_run()]
    assert {"model.keras", "best.keras", "history.csv", "metrics.json", "checkpoints/"} < {*files}


def test_a_recipe_of_an_unknown_data_set_is_named(monkeypatch):
    changed = ['name="lost"', 'data.dataset="image_folder/lost"', "data.image_size=64"]
    shipped = recipes.shipped_recipes() | {"lost": load_recipe("demo", changed)}
    monkeypatch.setattr(recipes, "shipped_recipes", lambda: shipped)
    with pytest.raises(ValueError, match=r"no row in DATASETS: \['lost'\]"):
        recipes.recipes_page()


def test_anchors_are_unique():
    counts = {}
    for page, text in GENERATED.items():
        anchors = re.findall(r"\{ #(\S+) \}", text)
        counts[page] = len(anchors)
        assert len(anchors) == len(set(anchors)), page
    assert counts["reference/recipe-keys.md"] > 50


def test_prose_keeps_code_and_escapes_the_rest():
    assert prose("a_b *c* `d_e` [f]") == r"a\_b \*c\* `d_e` \[f\]"
    assert prose("with loss.l2, see <x>") == "with `loss.l2`, see &lt;x>"
    assert prose("as arXiv:1707.08819") == "as [arXiv:1707.08819](https://arxiv.org/abs/1707.08819)"


def test_docstrings_are_read_by_section():
    text = """One.

    Two
    lines.

    Attributes:
        a, b: of both,
            in two lines.
        c: of one: it.

    Raises:
        E: never.
    """
    assert paragraphs(text) == "One.\n\nTwo lines."
    assert entries(text, "Attributes") == {
        "a": "of both, in two lines.",
        "b": "of both, in two lines.",
        "c": "of one: it.",
    }
    assert entries(text, "Args") == {}
