"""What ``mkdocs build`` adds to docs/: the pages that are made of something else.

The settings are read from the config classes and the ``#:`` comments beside their fields; RESULTS,
CONTRIBUTING and CHANGELOG become pages; the guides are put into the navigation by their titles.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
ABOUT = """\
Every setting is a field of a frozen dataclass. `--set stage.key=value` changes one, as often as it
is given; `config.json` in the run's folder lists them all. Numbers may be 0 or more unless the
table says otherwise. Tuples are written with commas: `--set rl.opening=0,4`.

A game, a recipe and an algorithm bring defaults of their own; this page has those of no game in
particular. A run keeps the settings that shape its weights: the same folder with another net is
refused, with more minutes it goes on."""
#: A run of a game and one of texts, as they are by default.
CONFIGS = (RunConfig(game=""), TextConfig(task=""))
LINK = re.compile(r"(\]\()([^)#\s]+)")


class Row(NamedTuple):
    """One setting, in words."""

    key: str  #: dotted, as ``--set`` takes it
    kind: str
    default: Any
    limits: str
    meaning: str


def comments(kind: type) -> dict[str, tuple[str, str]]:
    """(type, meaning) of every field of a dataclass, in order: the ``#:`` comment behind the field
    and those on the lines below it, as they are written in the source; base classes first."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed([k for k in kind.__mro__ if dataclasses.is_dataclass(k)]):
        lines = inspect.getsource(base).splitlines()
        tree = ast.parse("\n".join(lines)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                end = node.end_lineno or node.lineno
                words = [lines[end - 1].partition("#:")[2]]
                for line in lines[end:]:
                    if not line.lstrip().startswith("#:"):
                        break
                    words.append(line.partition("#:")[2])
                meaning = " ".join(" ".join(words).split())
                old = found.get(node.target.id, ("", ""))[1]
                found[node.target.id] = ast.unparse(node.annotation), meaning or old
    return found


def settings(config: Any) -> Iterator[Row]:
    """Every setting of a run's config, its stages one after the other."""
    fields = comments(type(config))
    for plain in (True, False):  # the run's own first
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if dataclasses.is_dataclass(value) == plain:
                continue
            inner = [(f.name, value, *fields[f.name])] if plain else [
                (f"{f.name}.{name}", getattr(value, name), *words)
                for name, words in comments(type(value)).items() if "ClassVar" not in words[0]]
            for key, default, kind, meaning in inner:
                limits = [word for word, keys in (
                    ("above 0", config.LIMITS.positive), ("at most 1", config.LIMITS.shares))
                    if key in keys]
                yield Row(key, kind, default, ", ".join(limits), meaning)


def settings_page() -> str:
    """docs/settings.md, of the defaults."""
    out = ["# Settings", "", ABOUT]
    for title, config in zip(("Runs of games", "Runs of language models"), CONFIGS, strict=True):
        out.append(f"\n## {title}")
        for stage, rows in itertools.groupby(settings(config),
                                             key=lambda row: row.key.rpartition(".")[0]):
            about = inspect.getdoc(type(getattr(config, stage) if stage else config)) or ""
            out += ["", f"### {stage or 'The run'} {{ #{title.split()[-1]}-{stage} }}", "",
                    _inline(about), "", "| key | type | default | meaning |", "|---|---|---|---|"]
            out += map(_line, rows)
    return "\n".join(out) + "\n"


def _line(row: Row) -> str:
    literal = re.fullmatch(r"Literal\[(.*)\]", row.kind)
    kind = literal[1] if literal else row.kind
    default = ",".join(map(str, row.default)) if isinstance(row.default, tuple) else row.default
    meaning = "; ".join(filter(None, [_inline(row.meaning), row.limits]))
    cells = (f"`{row.key}`", f"`{kind}`", f"`{default}`" if default != "" else "", meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
        if target in PAGES:
            return match[1] + posixpath.relpath(PAGES[target], here or ".")
        return match[0]

    return LINK.sub(moved, markdown)


def _from_root(target: str) -> str:
    return PAGES.get(target, target.removeprefix("docs/"))
