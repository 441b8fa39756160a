"""The house rules that a machine can check: who imports whom, which kernel calls which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import forked
import pytest
from script import load

ROOT = Path(__file__).parent.parent
CORE = ROOT / "selfplay"

#: Lowest first: a file imports from its own folder, without a circle, or from a lower row.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("games", "models"),
    ("common",),
    ("search",),
    ("learn",),
    ("report",),
    ("inference",),
    ("arena",),
    ("board",),
    ("run",),
    ("llm",),
    ("serve",),
    ("cluster",),
    ("api", "bench"),
    ("cli",),
)
FLOOR = {folder: level for level, row in enumerate(FLOORS) for folder in row}
FLOOR["__main__"] = len(FLOORS)  # a file alone, which starts the command
#: What a folder may not know, though it lies lower.
APART = {"llm": {"board"}, "learn": {"games"}, "models": {"games"}, "games": {"models"}}
MOST_FILES = 16  #: of one folder


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[str]:
    """Dotted names imported anywhere in a file, in functions as well; relative ones in full."""
    found: list[str] = []
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def module_of(path: Path) -> str:
    """The dotted name of a file of the package; games and models lie beside it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "selfplay" else ("selfplay", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def every_module() -> list[Path]:
    return sorted([*(p for p in CORE.rglob("*.py")
                     if not p.is_relative_to(CORE / "games") and
                     not p.is_relative_to(CORE / "models")),
                   *(ROOT / "games").rglob("*.py"), *(ROOT / "models").rglob("*.py")])


MODULES = {module_of(path): path for path in every_module()}


def known(name: str) -> str | None:
    """The module of the package that an imported name is, or lies in."""
    while name.startswith("selfplay"):
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def brought(path: Path) -> set[str]:
    """The package's modules that a file imports, without itself and the package's own door."""
    return {found for name in imports(path) if (found := known(name))} - {
        module_of(path), "selfplay"}


def test_every_folder_has_a_floor_and_none_is_crowded() -> None:
    folders = {name.split(".")[1] for name in MODULES if "." in name}
    assert folders == set(FLOOR)
    for folder, files in Counter(path.parent for path in MODULES.values()).items():
        assert files <= MOST_FILES, f"{folder}/ has {files} files"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str) -> None:
    own = name.split(".")[1] if "." in name else ""
    for other in brought(MODULES[name]):
        folder = other.split(".")[1]
        level = FLOOR.get(own, len(FLOORS))
        assert folder == own or FLOOR[folder] < level, f"{name} imports {other}, upward"
        assert folder not in APART.get(own, ()), f"{name} imports {other}"


def test_no_circle() -> None:
    left = {name: brought(path) for name, path in MODULES.items()}
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.stem)
def test_scripts_stand_on_top(path: Path) -> None:
    """They use any floor, by names that exist and are no file's own."""
    for name in imports(path):
        module = known(name)
        if module is None:
            assert not name.startswith("selfplay"), f"{path.name} imports {name}: not there"
        else:
            rest = name.removeprefix(module).lstrip(".")
            assert not rest.startswith("_"), f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", ["games", "models"])
def test_games_and_models_stand_alone(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert "selfplay" not in path.read_text().replace("selfplay games", ""), path
        for name in imports(path):
            assert not (folder == "games" and name.split(".")[0] == "torch"), f"{path}: {name}"


@pytest.mark.parametrize(("package", "allowed"), [
    ("click", {"cli", "arena.players"}),
    ("pyspiel", {"games.openspiel", "games", "arena.engines", "bench.search"}),
    ("matplotlib", {"report"}),
    ("jinja2", {"report.page"}),
    ("filelock", {"common.files"}),
    ("rich", {"common.console"}),
    ("openvino", {"inference.openvino"}),
    ("transformers", {"llm.models", "llm.embedded"}),
    ("tokenizers", {"llm.embedded"}),
    ("peft", {"llm.models"}),
    ("sympy", {"llm.tasks.scorers"}),
    ("mpmath", {"llm.tasks.scorers"}),
    ("reasoning_gym", {"llm.tasks.gym"}),
    ("datasets", {"llm.tasks.rows"}),
    ("pyarrow", {"llm.tasks.rows"}),
    ("trl", set()),
    ("vllm", {"llm.engines.vllm", "llm.engines.server"}),
    ("pydantic", {"common.settings"}),
    ("pydantic_core", {"common.limits"}),
    ("starlette", {"serve.web.server"}),
    ("uvicorn", {"serve.web.server"}),
    ("websockets", set()),
    ("ray", {"cluster"}),
])
def test_a_library_is_known_in_one_place(package: str, allowed: set[str]) -> None:
    """allowed: modules, or whole folders."""
    for module, path in MODULES.items():
        if any(name.split(".")[0] == package for name in imports(path)):
            name = module.removeprefix("selfplay.")
            assert {name, name.split(".")[0]} & allowed, f"{module} imports {package}"


def kernels(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)
            and any("njit" in ast.dump(d) for d in node.decorator_list)]


def test_kernels_call_only_kernels_of_their_own_file() -> None:
    """Numba's cache does not notice edits in another file: the caller would run stale code."""
    trees = {path: parsed(path) for path in every_module()}
    total = 0
    for path, tree in trees.items():
        elsewhere = {alias.asname or alias.name for node in ast.walk(tree)
                   if isinstance(node, ast.ImportFrom)
                   and (node.level or (node.module or "").startswith("selfplay"))
                   for alias in node.names}
        for kernel in kernels(tree):
            total += 1
            for call in ast.walk(kernel):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    called = f"{path.name}: {kernel.name} {call.func.id}"
                    assert call.func.id not in elsewhere, called
    assert total >= 10


REACH = load("reach")


@pytest.mark.parametrize(("name", "modules", "lines"), [
    ("board.alphazero", 22, 4_140), ("llm.rl", 24, 5_000)])
def test_a_loop_stands_on_little(name: str, modules: int, lines: int) -> None:
    found = REACH.reach(f"selfplay.{name}")
    assert len(found) <= modules, found
    assert REACH.lines(found) <= lines


def test_few_names_are_defined_in_two_files() -> None:
    """What is shared by design: a command or a function of the Python API and what it stands on,
    the kernels that every game has, a function of settings for boards and one for texts."""
    assert len(REACH.shared_names("llm")) <= 3, REACH.shared_names("llm")
    assert len(REACH.shared_names()) <= 45, REACH.shared_names()


def test_names_are_those_that_python_finds() -> None:
    """Against the modules themselves, of a folder without heavy imports."""
    found = {name for name, where in REACH.names().items() if "selfplay.common.files" in where}
    import selfplay.common.files as files

    assert found == {name for name, value in vars(files).items()
                     if getattr(value, "__module__", "") == files.__name__}
    assert {"selfplay.games.go.go", "selfplay.models.resnet"} <= set(REACH.modules())
    assert sorted(REACH.modules()) == sorted(MODULES)


def test_reach_is_what_running_imports() -> None:
    """Against Python: what a fresh process has of the package after the import is counted, but for
    what lies in packages' own files."""
    code = ("import sys, selfplay.board.alphazero\n"
            "print(*(n for n in sys.modules if n.startswith('selfplay')))")
    done = forked.python(code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    doors = {name for name in done.stdout.split() if MODULES.get(name, ROOT).name == "__init__.py"}
    assert set(done.stdout.split()) - doors <= set(REACH.reach("selfplay.board.alphazero"))


def test_from_a_position_to_its_gradient_in_one_reading() -> None:
    names = ("board.alphazero", "board.selfplay", "search.search", "search.select", "search.tree",
             "inference.evaluator", "board.data", "board.trainer")
    assert REACH.lines([f"selfplay.{name}" for name in names]) <= 2_100


#: Modules below ``run`` that read or write files, tell the time or draw.
TOUCHING = {"learn.checkpoint", "learn.packaged", "inference.precision"}


@pytest.mark.parametrize("folder", ["search", "learn", "board"])
def test_loops_know_neither_disk_nor_clock_nor_screen(folder: str) -> None:
    apart = ("time", "pathlib", "rich", "torch.utils.tensorboard", "selfplay.common.files",
             "selfplay.common.console", "selfplay.learn.checkpoint")
    for module, path in MODULES.items():
        name = module.removeprefix("selfplay.")
        if name.startswith(f"{folder}.") and name not in TOUCHING:
            found = [i for i in imports(path) if i.startswith(apart)]
            assert not found, f"{module} imports {found}"


def test_files_are_short() -> None:
    for path in every_module():
        lines = len(path.read_text().splitlines())
        assert lines <= 420, f"{path.name} has {lines} lines: more than one concept?"


@cache
def helped(*words: str) -> tuple[str, set[str]]:
    """What ``selfplay WORDS`` says in a process of its own, and the modules that it has then."""
    code = (f"import sys; sys.argv = ['selfplay', *{words}]\n"
            "from selfplay.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print('modules:', *sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    said, _, modules = done.stdout.partition("modules:")
    return said, set(modules.split())


@pytest.mark.parametrize("heavy", ["torch", "numba", "numpy", "matplotlib", "pyspiel",
                                   "transformers", "pydantic", "ray"])
@pytest.mark.parametrize("words", [["--help"], ["llm", "--help"]])
def test_help_imports_nothing_heavy(heavy: str, words: list[str]) -> None:
    said, imported = helped(*words)
    assert "train" in said
    assert heavy not in imported
