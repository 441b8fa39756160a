"""What ``mkdocs build`` adds to docs/: the pages that are made of something else.

The settings are read from the config classes and the ``#:`` comments beside their fields; RESULTS,
CONTRIBUTING and CHANGELOG become pages; the guides are put into the navigation by their titles.
"""

from __future__ import annotations

import inspect
import itertools
import posixpath
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings_table import markdown, table

from selfplay.llm.config import TextConfig
from selfplay.run.config import RunConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
#: Files of the root that are pages of the site.
PAGES = {"RESULTS.md": "results.md", "CONTRIBUTING.md": "contributing.md",
         "CHANGELOG.md": "changelog.md"}
#: What the site shows in place of a file of the repository.
INSTEAD = {**PAGES, "selfplay/run/config.py": "settings.md",
           "selfplay/learn/config.py": "settings.md"}
ABOUT = """\
Every setting is a field of a frozen dataclass. `--set stage.key=value` changes one, as often as it
is given; `config.json` in the run's folder lists them all. Numbers may be 0 or more unless the
table says otherwise. Tuples are written with commas: `--set rl.opening=0,4`.

A game, a recipe and an algorithm bring defaults of their own; this page has those of no game in
particular. A run keeps the settings that shape its weights: the same folder with another net is
refused, with more minutes it goes on."""
CONFIGS = {"Runs of games": RunConfig, "Runs of language models": TextConfig}
LINK = re.compile(r"(\]\()([^)#\s]+)")


def settings_page() -> str:
    """docs/settings.md, of the defaults: a table a stage."""
    out = ["# Settings", "", ABOUT]
    for title, config in CONFIGS.items():
        stages = typing.get_type_hints(config)
        out.append(f"\n## {title}")
        for stage, rows in itertools.groupby(sorted(table(config), key=lambda row: "." in row.key),
                                             key=lambda row: row.key.rpartition(".")[0]):
            about = inspect.getdoc(stages.get(stage, config)) or ""
            out += ["", f"### {stage or 'The run'} {{ #{title.split()[-1]}-{stage} }}", "",
                    _inline(about), "",
                    markdown([row._replace(meaning=_inline(row.meaning)) for row in rows])]
    return "\n".join(out) + "\n"


def _inline(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs: the pages that are no files of docs/."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """mkdocs: the guides' place in the navigation."""
    guides = sorted((ROOT / "docs/guide").glob("*.md"))
    nav: list[Any] = []
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Guides" in entry:
            if not guides:
                continue
            entry = {"Guides": [f"guide/{path.name}" for path in guides]}
        nav.append(entry)
    config.nav = nav
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """mkdocs: links that are right in the repository, made right for the site."""
    here = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri in PAGES.values():
        return LINK.sub(lambda m: m[1] + _from_root(m[2]), markdown)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, match[2]))
        if target in INSTEAD:
            return match[1] + posixpath.relpath(INSTEAD[target], here or ".")
        return match[0]

    return LINK.sub(moved, markdown)


def _from_root(target: str) -> str:
    return INSTEAD.get(target, target.removeprefix("docs/"))
