"""The reference of the shipped recipes: a table for each data set, and each recipe's own file."""

from collections.abc import Iterator, Sequence

from generate.markdown import bullets, code, fence, folded, heading, page, prose, table
from keras_imnet64.core.types import JsonObject
from keras_imnet64.data.datasets import DATASETS
from keras_imnet64.recipe.listing import Facts, facts, in_giga, in_words
from keras_imnet64.recipe.loading import recipes_dir, shipped_recipes

RESULTS = ("published", "measured")  # lines of `in_words` that are written in full here
HEADINGS = ("recipe", "epochs", "parameters", "MACs", "published", "measured")


def recipes_page() -> str:
    """Returns the page of all recipes."""
    known = [facts(recipe) for recipe in shipped_recipes().values()]
    left_out = [each["recipe"] for each in known if each["dataset"] not in DATASETS]
    if left_out:
        raise ValueError(f"recipes of data sets that have no row in DATASETS: {left_out}")
    tables = []
    for dataset in DATASETS:
        of_set = [each for each in known if each["dataset"] == dataset]
        if of_set:
            anchor = f"data-set-{dataset.replace('/', '-')}"
            rows = table(HEADINGS, map(row, of_set))
            tables += [heading(2, f"On {code(dataset)}", anchor), rows]
    return page(
        "Recipes",
        f"The {len(known)} recipes that come with the package, by data set. Accuracies are top-1 "
        "and top-5 in percent on the whole validation split, without test-time augmentation unless "
        'the recipe says so. "Published" is what the source of a recipe reports, "measured" what '
        "this package reached. MACs are multiply-accumulates for one image. "
        "`python cli.py recipes` prints the same list, and [Recipe keys](recipe-keys.md) explains "
        "the files.",
        *tables,
        heading(2, "The recipes one by one", "one-by-one"),
        *map(section, known),
    )


def row(known: Facts) -> list[str]:
    """Returns the cells of a recipe in the table of its data set."""
    published = known["published"]
    measured = [f"{in_one_line(r)} {backend}" for backend, r in known["measured"].items()]
    return [
        f"[{code(known['recipe'])}](#{known['recipe']})",
        str(known["epochs"]),
        f"{known['parameters']:,}" if known["parameters"] else "by classes",
        in_giga(known["macs"]) or "by classes",
        in_one_line(published) if published else "none",
        ", ".join(measured) or "not yet run",
    ]


def accuracies(result: JsonObject) -> str:
    """Returns "71.92 / 90.1" for a result that states accuracies or errors; "-" for no value."""
    found = []
    for key in ("top1", "top5"):
        error = result.get(f"{key}_error")
        accuracy = result.get(key, None if error is None else round(100 - error, 2))
        found.append("-" if accuracy is None else f"{accuracy:g}")
    return " / ".join(found)


def in_one_line(result: JsonObject) -> str:
    """Returns the accuracies for a narrow column, which does not break them."""
    return accuracies(result).replace(" ", "\N{NO-BREAK SPACE}")


def results(known: Facts) -> Iterator[str]:
    """Yields the published and the measured results of a recipe, with what they rest on."""
    named = {"published": known["published"]} if known["published"] else {}
    named |= {f"measured under {backend}": r for backend, r in known["measured"].items()}
    for label, result in named.items():
        notes = [prose(result[key]) for key in ("note", "source") if key in result]
        yield "; ".join([f"{label}: {accuracies(result)} %", *notes])
    if not known["measured"]:
        yield "measured: not yet run"


def section(known: Facts) -> str:
    """Returns what a recipe says of itself, its results, and its file."""
    name = known["recipe"]
    text = (recipes_dir() / f"{name}.toml").read_text("utf-8")
    lines = [line.partition("  ") for line in list(in_words(known))[1:]]
    costs = [(label, words) for label, _, words in lines if label not in RESULTS]
    return "\n\n".join(
        [
            heading(3, code(name), name),
            first_comment(text.splitlines()),
            bullets(
                [
                    f"network: {code(known['model'])}",
                    *(f"{label}: {prose(words)}" for label, words in costs),
                    *results(known),
                ]
            ),
            folded(f"recipes/{name}.toml", fence(text, "toml")),
        ]
    )


def first_comment(lines: Sequence[str]) -> str:
    """Returns the comment with which a recipe begins: paragraphs, and lists of "- " items."""
    blocks: list[str] = [""]
    for line in lines:
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if not text or text.startswith("- "):
            blocks.append("")
        blocks[-1] = f"{blocks[-1]} {text}".strip()
    return "\n\n".join(
        f"- {prose(block[2:])}" if block.startswith("- ") else prose(block)
        for block in blocks
        if block
    )
