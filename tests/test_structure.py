"""Which way imports flow, what the command line loads, and that every file says what it owns."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "keras_imnet64"
# A part imports from rows below its own. Parts of one row never see each other.
ROWS = (
    {"__main__"},
    {"cli"},
    {"report"},
    {"bench", "compare", "spectral", "sweep"},
    {"curves"},
    {"jobs"},
    {"convert", "doctor", "export"},
    {"training"},
    {"evaluation"},
    {"recipe"},
    {"models"},
    {"data.tools"},
    {"data.datasets"},
    {"data.forms"},
    {"data.prepare"},
    {"data.stream"},
    {"data.locations", "data.selection"},
    {"data.sources"},
    {"data.stores"},
    {"data.order"},
    {"data.augment"},
    {"data.images", "data"},
    {"charts", "pages", "runs", "backend"},
    {"records"},
    {"core", "__init__"},
)
SEPARATE = {("models", "data"), ("models", "runs"), ("data", "runs")}  # although of several rows
ROW_OF = {part: number for number, row in enumerate(ROWS) for part in row}


@cache
def modules():
    """{dotted name: file} of the package."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert len(files) > 20
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


@cache
def imports(module, source):
    """Dotted names of what a module imports from the package, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Of a package, `module` ends in "__init__", so that one dot means the package itself.
            base = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def part(name):
    """Part of a module: "models" of keras_imnet64.models.ship, "data.stores" of one of its files.

    Names of the package itself are those of "__init__".
    """
    first, second = [*name.split("."), "", ""][1:3]
    inside = (ROOT / PACKAGE / first).is_dir() or (ROOT / PACKAGE / f"{first}.py").is_file()
    if first == "data" and second not in ("", "__init__"):
        return f"data.{second}"
    return first if inside else "__init__"


def points_downward(here, there):
    """Whether a part may import from another."""
    whole = here.split(".")[0], there.split(".")[0]
    return here == there or (whole not in SEPARATE and ROW_OF[there] > ROW_OF[here])


def wrong_imports(module, source):
    """Imports that do not point downward."""
    here = part(module)
    there = [name for name in imports(module, source) if name.split(".")[0] == PACKAGE]
    return [n for n in there if not points_downward(here, part(n))]


def graph():
    """{module: modules that it imports}, inside functions and for types alone too."""
    names = {module.removesuffix(".__init__"): module for module in modules()}
    found = {}
    for module, file in modules().items():
        there = {
            n if n in names else n.rpartition(".")[0] for n in imports(module, file.read_text())
        }
        found[module] = {names[n] for n in there if n in names} - {module}
    return found


def circle(arrows):
    """Modules that import each other in a loop, or none."""
    arrows = {module: set(there) for module, there in arrows.items()}
    while free := [module for module, there in arrows.items() if not there & arrows.keys()]:
        for module in free:
            del arrows[module]
    return sorted(arrows)


def test_no_modules_import_each_other():
    assert circle(graph()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_every_part_has_its_row():
    assert {part(module) for module in modules()} - {"data"} <= set(ROW_OF), (
        "name new parts in ROWS"
    )


@pytest.mark.parametrize("module", modules())
def test_imports_point_downward(module):
    assert wrong_imports(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("keras_imnet64.data.order", "from keras_imnet64.recipe.loading import load_recipe"),
        ("keras_imnet64.data.order", "def f():\n    from ..models import init"),
        ("keras_imnet64.data.__init__", "from .. import recipe"),
        ("keras_imnet64.models.init", "import keras_imnet64.data.stores.raw"),
        ("keras_imnet64.runs", "from . import backend"),
        ("keras_imnet64.data.stores.base", "from keras_imnet64.data import stream"),
        ("keras_imnet64.evaluation.metrics", "from keras_imnet64.training import fit"),
        ("keras_imnet64.core.errors", "from keras_imnet64.recipe.schema import Recipe"),
    ],
)
def test_an_import_that_points_upward_is_seen(module, source):
    assert len(wrong_imports(module, source)) == 1


def test_only_programs_draw_bars_for_packing():
    users = {
        module
        for module, file in modules().items()
        if any("progress_bars" in n for n in imports(module, file.read_text()))
    }
    assert users == {f"{PACKAGE}.cli.frame", f"{PACKAGE}.jobs.preflight"}


@pytest.mark.parametrize(
    "statement",
    [
        "import keras_imnet64.cli",
        "import sys; sys.argv[1:] = ['fit', '--help']; import keras_imnet64.cli as c; c.main()",
        "from keras_imnet64.recipe.loading import list_recipes, load_recipe; load_recipe('demo')",
        "from keras_imnet64 import model_info, list_models; list_models()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement):
    heavy = {"keras", "tensorflow", "jax", "torch", "tensorflow_datasets", "sklearn", "numba"}
    heavy |= {"matplotlib", "scipy", "pyarrow", "fsspec", "keras_cv", "keras_hub"}
    if "cli" in statement:  # --help answers at once
        heavy |= {"pydantic", "numpy", "rich", "PIL"}
    code = f"{statement}\nimport sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "[]"


def is_silent(source):
    """Whether a file in ruff's layout has code, and no docstring before it."""
    code = next((line for line in source.splitlines() if line and not line.startswith("#")), None)
    return code is not None and not code.startswith(('"""', 'r"""'))


def test_every_file_says_what_it_is():
    folders = [ROOT / PACKAGE, ROOT / "tests", ROOT / "docs"]
    files = [*(file for folder in folders for file in folder.rglob("*.py")), ROOT / "cli.py"]
    assert [str(file) for file in files if is_silent(file.read_text())] == []
    assert is_silent("# of a kind\n\nimport re\n") and not is_silent("# of a kind\n")
    recipes = list((ROOT / "recipes").glob("*.toml"))
    assert recipes
    assert [str(file) for file in recipes if not file.read_text().startswith("# ")] == []


def test_contributing_names_files_that_exist():
    """Paths in backquotes are below the package, or below the root of the checkout."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`([\w./]+/[\w./]*|[\w.]+\.(?:py|toml|md|yml))`", text))
    assert len(named) > 40
    missing = [
        name
        for name in sorted(named - {"keras_imnet64/"})
        if not any((base / name).exists() for base in (ROOT, ROOT / PACKAGE))
    ]
    assert missing == []
