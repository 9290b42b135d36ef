"""What mypy leaves open has its reason beside it: every `Any`, and every error that is ignored."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keras_imnet64"
MODULES = sorted(PACKAGE.rglob("*.py"))
JUSTIFIED = re.compile(r"# type: ignore\[[\w, -]+\]  # \w")


def comments(source):
    """{line: comment} of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def heads(tree):
    """(first line, last line, nodes) of each signature, and of each statement without a body."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.body[0].lineno - 1, [node.args, node.returns]
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node.lineno, node.end_lineno, [node]


def unexplained(source):
    """Lines of signatures and statements that use `Any` without a comment."""
    if "Any" not in source:  # most files, which need not be read closely
        return []
    said = comments(source)
    return sorted(
        first
        for first, last, nodes in heads(ast.parse(source))
        if any(
            isinstance(inner, ast.Name) and inner.id == "Any"
            for node in nodes
            if node is not None
            for inner in ast.walk(node)
        )
        and not any(line in said for line in range(first, last + 1))
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_is_not_checked_says_why(module):
    source = module.read_text()
    assert unexplained(source) == []
    if "type: ignore" not in source:
        return
    ignored = [text for text in comments(source).values() if "type: ignore" in text]
    assert [text for text in ignored if not JUSTIFIED.search(text)] == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x: Any = f()", [1]),
        ("x: Any = f()  # of any backend", []),
        ("def f(\n    x: int,\n    y: list[Any],\n) -> None:\n    '''Does it.'''", [1]),
        ("def f(\n    x: int,\n    y: list[Any],  # rows\n) -> None:\n    '''Does it.'''", []),
        ("def f(x: int) -> int:\n    y: Any = x\n    return y  # really", [2]),
    ],
)
def test_an_unexplained_any_is_seen(source, lines):
    assert unexplained(source) == lines


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
