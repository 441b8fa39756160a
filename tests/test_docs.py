"""README and docs/: what they tell the reader to type is typed; what they name is there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import click
import pytest
from script import SCRIPTS, load
from test_layout import FLOORS, MODULES

from selfplay.cli import cli, main
from selfplay.llm.config import TextConfig
from selfplay.run.config import RunConfig

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: In the order in which a reader, and the test that types the commands, meets them.
FIRST = ["README.md", "docs/index.md", "docs/install.md", "docs/tutorial.md", "docs/games.md"]
PAGES = [ROOT / name for name in FIRST] + sorted(
    path for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if str(path.relative_to(ROOT)) not in [*FIRST, "RESULTS.md"])
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FENCE = re.compile(r"^(```+) *([\w-]*)[^\n]*\n(.*?)^\1 *$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n)+")
MARK = re.compile(r"<!-- *(long|output|fails|file)(?:: *(.*?))? *-->\s*\Z")
SHELL = {"sh", "bash", "shell", "console"}
PROGRAMS = ("selfplay ", "scripts/", ".venv/", "python", "pip ", "apt ", "OMP_NUM_THREADS",
            "tensorboard ", "git ", ".ci/")
#: What a code span or a command may name of the repository.
PATH = re.compile(r"(?:docs|scripts|selfplay|games|models|tests|\.ci|\.github)/[\w./-]*\w|"
                  r"[\w-]+\.(?:toml|yml)|constraints\.txt|[A-Z]{4,}\.md")


class Block(NamedTuple):
    page: Path
    line: int
    kind: str  #: of the fence; "sh" or "python" of an indented block
    text: str
    mark: str  #: long, output, fails, file or none
    words: str  #: that the mark brings

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of every command of a shell block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines
                if (words := shlex.split(line.removeprefix("$ "), comments=True))]

    def quick(self) -> list[list[str]]:
        """``commands``; those of the guides, which are about other things, with tiny budgets."""
        if self.page.parent.name != "guide":
            return self.commands()
        tiny = {"--minutes": "0.05", "--games": "4"}
        return [[tiny.get(before, word) for before, word in zip(["", *words], words, strict=False)]
                for words in self.commands()]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, and the indented ones that hold commands or Python, in order."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        found.append((match.start(), match[2], match[3]))
    bare = FENCE.sub(lambda m: re.sub(r"[^\n]", "x", m[0]), text)  # as long, without indents
    for match in INDENTED.finditer(bare):
        code = re.sub(r"^ {4}", "", match[0], flags=re.MULTILINE)
        if code.startswith((*PROGRAMS, "import ", "from ")):
            found.append((match.start(), "sh" if code.startswith(PROGRAMS) else "python", code))
    out = []
    for start, kind, code in sorted(found):
        mark = MARK.search(text[:start])
        out.append(Block(page, text.count("\n", 0, start) + 1, kind, code,
                         mark[1] if mark else "", (mark[2] or "") if mark else ""))
    return out


ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in ALL if block.kind in SHELL]
sys.path.insert(0, str(SCRIPTS))
SITE = load("docs_pages")
KEYS = {row.key for config in SITE.CONFIGS.values() for row in SITE.table(config)}
names = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


# ------------------------------------------------------------------------------- commands

def selfplay_words(words: list[str]) -> list[str] | None:
    """The arguments of a selfplay command, or None where it is another program's."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return words[1:] if words and Path(words[0]).name == "selfplay" else None


def parses(words: list[str]) -> None:
    """As click reads them, without doing anything."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if words not in (["--help"], ["--version"]):
        with command.make_context(command.name, list(words)) as context:
            for assignment in context.params.get("assignments", ()):
                assert assignment.partition("=")[0] in KEYS, f"no setting {assignment}"


def options_of(script: Path) -> set[str]:
    return {node.value for node in ast.walk(ast.parse(script.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            and node.value.startswith("-")}


@pytest.mark.parametrize("block", [b for b in COMMANDS if b.mark != "fails"], ids=str)
def test_commands_are_such_as_the_programs_take(block: Block) -> None:
    for words in block.commands():
        told = f"{block}: {shlex.join(words)}"
        ours = selfplay_words(words)
        if ours is not None:
            try:
                parses(ours)
            except click.ClickException as error:
                raise AssertionError(f"{told}: {error.format_message()}") from None
            continue
        for word in words:
            extras = re.fullmatch(r"(?:\.|selfplay-lab)\[([\w,]+)\]", word)
            assert not extras or set(extras[1].split(",")) <= set(EXTRAS), told
            script = ROOT / word
            if word.startswith(("scripts/", ".ci/", "tests/")):
                assert script.is_file(), told
            if word.startswith("scripts/") and script.suffix == ".py":
                wanted = {w.partition("=")[0] for w in words if w.startswith("--")}
                assert wanted <= options_of(script), told


def test_most_blocks_are_marked_for_a_reason() -> None:
    """What is not marked is run: nothing but selfplay's own commands and Python."""
    for block in COMMANDS:
        if block.mark != "long":
            for words in block.commands():
                assert selfplay_words(words) is not None, f"{block}: mark it as long: {words}"
    assert sum(block.mark != "long" for block in COMMANDS) >= 8


class Typed(NamedTuple):
    code: int
    out: str
    err: str


def typed(words: list[str], patch: pytest.MonkeyPatch,
          capsys: pytest.CaptureFixture[str]) -> Typed:
    patch.setattr(sys, "argv", ["selfplay", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return Typed(int(ended.value.code or 0), said.out, said.err)


def masked(line: str) -> str:
    """Without figures, units of time and widths of columns, which differ between machines."""
    line = re.sub(r"[-+]?\d[\d.,:]*%?", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"N (s|min|h)\b", "N s", line)).strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that looks like the root, in which commands may leave what they make."""
    for path in (*ROOT.glob("*.md"), *(ROOT / name for name in (
            "docs", "scripts", "tests", "games", "models", "selfplay"))):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_what_is_not_long_runs_and_says_what_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All pages in order, in one folder: a later one may use what an earlier one has made."""
    said = ""
    for block in ALL:
        if block.mark == "output":
            heard = {masked(line) for line in said.splitlines()}
            for line in map(masked, block.text.splitlines()):
                assert line in ("", "…") or line in heard, f"{block}: not said: {line}\n{said}"
        elif block.mark == "file":
            (folder / block.words).write_text(block.text)
        elif block.mark == "long":
            continue
        elif block.kind in SHELL:
            said = ""
            for words in block.quick():
                done = typed(selfplay_words(words) or [], monkeypatch, capsys)
                assert bool(done.code) == (block.mark == "fails"), f"{block}: {done.err}"
                assert block.mark != "fails" or block.words in done.err, f"{block}: {done.err}"
                said += done.out + done.err
        elif block.kind == "python":
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
            said = capsys.readouterr().out


# ---------------------------------------------------------------------------------- names

@names
def test_links_lead_somewhere(page: Path) -> None:
    """As the files lie in the repository, headings within them included."""
    text = FENCE.sub("", page.read_text())
    for target, _, heading in (link.partition("#") for link in re.findall(
            r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)", text) for link in link if link):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            slugs = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                     for line in file.read_text().splitlines() if line.startswith("#")}
            assert heading in slugs, f"{page.name}: {target}#{heading}"


@names
def test_paths_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    for span in spans + [w for b in blocks(page) if b.kind in SHELL for c in b.commands()
                         for w in c]:
        name = span.partition("::")[0].partition(":")[0]
        if PATH.fullmatch(name.rstrip("/")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_readme_is_a_page() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert any(re.match(r"(scripts/)?selfplay train ", line) for line in lines[:20])


def test_messages_among_the_faults_are_the_programs_own() -> None:
    source = "".join(path.read_text() for path in MODULES.values())
    spoken = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that go on in the next line
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "faults.md").read_text(), re.MULTILINE)
    spans = [span for row in rows for span in re.findall("`(.+?)`", row)]
    assert len(spans) >= 6
    for span in spans:
        for part in filter(None, map(str.strip, re.split(r"…|[)(]", span))):
            assert part in spoken, part


def test_what_github_runs_is_there() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "- run: .ci/run\n" in text
    for script in re.findall(r"- run: ([\w./]+)$", text, re.MULTILINE):
        assert (ROOT / script).is_file(), script


# -------------------------------------------------------------------------------- the site

def test_the_picture_and_the_tables_have_the_floors() -> None:
    assert (DOCS / "parts.svg").read_text() == load("draw_parts").drawing()
    rows: dict[float, list[str]] = {}
    for node in ElementTree.parse(DOCS / "parts.svg").iter("{http://www.w3.org/2000/svg}text"):
        if node.get("class") == "folder":
            rows.setdefault(float(node.get("y", 0)), []).append(node.text or "")
    lowest_first = [tuple(sorted(rows[y])) for y in sorted(rows, reverse=True)]
    assert lowest_first == [tuple(sorted(row)) for row in FLOORS]
    for page in (DOCS / "architecture.md", ROOT / "README.md"):
        table = page.read_text().partition("| folder |")[2].partition("\n\n")[0]
        cells = "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
        found = re.findall(r"`(?:selfplay/)?(\w+)/`", cells)
        assert found == [folder for row in FLOORS for folder in row], page.name


def test_every_setting_is_on_its_page() -> None:
    """Against the dataclasses themselves: no field is lost, each with its default."""
    page, rows = SITE.settings_page().splitlines(), 0
    for config in (RunConfig(game=""), TextConfig(task="")):
        for name, value in vars(config).items():
            inner = vars(value) if hasattr(value, "__dict__") else None
            for key, default in ([(name, value)] if inner is None else
                                 [(f"{name}.{k}", v) for k, v in inner.items()]):
                shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
                found = [line for line in page if line.startswith(f"| `{key}` |")]
                assert any(f"| `{shown}` |" in line or shown == "" for line in found), key
                rows += 1
    assert sum(line.startswith("| `") for line in page) == rows
    sims, = (line for line in page if line.startswith("| `rl.sims` |"))
    assert "more than 0" in sims and "simulations of a full search; only these" in sims


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir",
         str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index", "tutorial", "settings", "api", "architecture", "results"):
        assert (tmp_path / f"{page}.html").is_file(), page
    assert "fresh initial states" in (tmp_path / "api.html").read_text()
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)',
                         (tmp_path / "index.html").read_text())
    assert not fetched  # read without a network as well
