"""Adds pages to the documentation that have no file in docs/: the reference, and CONTRIBUTING.md.

MkDocs calls `on_files` when it has found the files of docs/, see `hooks` in mkdocs.yml. Nothing is
written into docs/. `generate.PAGES` names the pages and what makes them.
"""

from pathlib import Path

from generate import PAGES
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of docs/ and the generated pages."""
    for uri, make in PAGES.items():
        files.append(File.generated(config, uri, content=make()))
    contributing = str(ROOT / "CONTRIBUTING.md")
    files.append(File.generated(config, "contributing.md", abs_src_path=contributing))
    return files
