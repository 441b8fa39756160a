"""How much of the package a module stands on: what it imports, and what these import.

    python scripts/reach.py board/alphazero llm/rl        modules and lines of each
    python scripts/reach.py --list board/alphazero        and which they are
    python scripts/reach.py --names llm                   names that llm shares with other files

Imports are read, not run; those inside of functions count as well, those for type checkers alone
do not, nor do the ``__init__`` of packages that nobody asks for anything.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"games": ROOT / "games", "models": ROOT / "models"}


def path_of(module: str) -> Path | None:
    """The file of ``selfplay.X.Y``; None where there is none."""
    package, *parts = module.split(".")
    if package != "selfplay":
        return None
    folder = ROOT / "selfplay"
    if parts and parts[0] in FLOORS:
        folder, parts = FLOORS[parts[0]], parts[1:]
    place = folder.joinpath(*parts)
    found = place.with_suffix(".py") if parts else place
    return next((p for p in (found, place / "__init__.py") if p.is_file()), None)


def imports(module: str) -> set[str]:
    """The package's modules that ``module`` imports, without the package's own door."""
    path = path_of(module)
    assert path is not None, module
    base = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in _nodes(_parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            whole = ".".join([*start, *filter(None, [node.module])])
            names = [f"{whole}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {known for name in names if (known := _known(name))}
    return found - {module, "selfplay"}


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those that are for type checkers."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found += [node, *_nodes(node)]
    return found


def _known(name: str) -> str | None:
    """The module that ``name`` is, or lies in."""
    while name.startswith("selfplay"):
        if path_of(name):
            return name
        name = name.rpartition(".")[0]
    return None


def reach(module: str) -> list[str]:
    """``module`` and all that it stands on, sorted."""
    found, new = {module}, [module]
    while new:
        more = imports(new.pop()) - found
        found |= more
        new += more
    return sorted(found)


def lines(modules: list[str]) -> int:
    """Lines of the modules' files, all together."""
    return sum(len(path.read_text().splitlines()) for m in modules if (path := path_of(m)))


def modules() -> Iterator[str]:
    """Every module of the package."""
    for start, prefix in ((ROOT / "selfplay", ["selfplay"]),
                          *((path, ["selfplay", name]) for name, path in FLOORS.items())):
        for path in start.rglob("*.py"):
            inner = path.relative_to(start).with_suffix("").parts
            if prefix != ["selfplay"] or inner[0] not in FLOORS:  # which may be links
                yield ".".join([*prefix, *(part for part in inner if part != "__init__")])


def names() -> dict[str, list[str]]:
    """The functions and classes at the top of modules: name -> the modules that define it."""
    found: dict[str, list[str]] = {}
    for module in sorted(modules()):
        path = path_of(module)
        assert path is not None, module
        for node in _parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, []).append(module)
    return found


def shared_names(folder: str = "") -> dict[str, list[str]]:
    """Those of ``names`` that two modules or more define, one of them in ``folder``."""
    start = f"selfplay.{folder}".rstrip(".") + "."
    return {name: where for name, where in names().items()
            if len(set(where)) > 1 and any(f"{module}.".startswith(start) for module in where)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("modules", nargs="*", help="such as board/alphazero")
    parser.add_argument("--list", action="store_true", help="name them, with their lines")
    parser.add_argument("--names", metavar="FOLDER", help="such as llm: names it shares")
    options = parser.parse_args()
    if options.names is not None:
        shared = shared_names(options.names)
        print(f"{len(shared)} of the {len(shared_names())} names that two files or more define "
              f"({len(names()):,} names in all)")
        for name, where in shared.items():
            print(f"    {name:24} {' '.join(m.removeprefix('selfplay.') for m in where)}")
    for name in options.modules:
        found = reach("selfplay." + name.removesuffix(".py").replace("/", "."))
        print(f"{name}: {len(found)} modules, {lines(found):,} lines")
        for module in found if options.list else ():
            print(f"    {lines([module]):5} {module.removeprefix('selfplay.')}")


if __name__ == "__main__":
    main()
