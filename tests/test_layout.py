"""The house rules that a machine can check: who imports whom, which kernel calls which."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "selfplay"

#: Lowest first; a module imports only from layers below its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "errors", "console", "rng", "compute", "threads", "memory",
     "compiling", "timing", "algorithms", "seam", "presets", "budget", "arguments", "measure",
     "hardware"),
    ("settings",),
    ("curve", "files", "config", "cache", "openvino", "mcts", "tree", "losses", "elo", "verdict",
     "advantages"),
    ("data", "records", "checkpoint", "gumbel", "sentences", "gtp", "policy_gradient"),
    ("palette", "inference", "search", "gradient", "engines", "update",
     "board_policy"),
    ("arithmetic", "pool", "alphago", "value_games", "panels"),
    ("players", "sgf", "train", "chart"),
    ("play", "bench_search", "chart_runs"),
    ("arena", "expert", "actor", "bouts"),
    ("report", "runs", "ladder"),
    ("flat", "crew"),
    ("acting", "sft", "value_net"),
    ("rl", "compare"),
    ("rl_pg", "together"),
    ("loop", "bench_net"),
    ("bench", "mistakes"),
    ("llm",),
    ("cli",),
)
#: The same for selfplay/llm, which knows the core up to its ``sft``; the core knows its cli alone.
LLM_LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "rewards", "formulas", "traces", "rlhf_config", "models", "chart"),
    ("scorers",),
    ("tasks", "cache", "store", "config"),
    ("decode",),
    ("generate", "forward"),
    ("policy", "evaluate", "vllm"),
    ("sft", "rollouts"),
    ("rl", "preferences", "optimism"),
    ("stages", "reward_model"),
    ("rlhf",),
    ("rlhf_stages",),
    ("summary",),
    ("run",),
    ("cli",),
)
LLM_LEVEL = {name: level for level, names in enumerate(LLM_LAYERS) for name in names}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[str]:
    """Dotted names imported anywhere in a file, in functions as well."""
    found: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def core_modules() -> list[Path]:
    return sorted(CORE.glob("*.py"))


@pytest.mark.parametrize("path", core_modules(), ids=lambda p: p.stem)
def test_core_imports_point_one_way(path: Path) -> None:
    assert path.stem in LEVEL, f"{path.name} has no layer; add it to LAYERS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "selfplay" or len(parts) < 2 or parts[1] in ("games", "models"):
            continue
        assert parts[1] in LEVEL, f"{path.name} imports {name}, which has no layer"
        assert LEVEL[parts[1]] < LEVEL[path.stem], f"{path.name} imports {parts[1]} upward"


def llm_modules() -> list[Path]:
    return sorted((CORE / "llm").glob("*.py"))


def every_module() -> list[Path]:
    return [*core_modules(), *llm_modules(), *(ROOT / "games").glob("*.py"),
            *(ROOT / "models").glob("*.py")]


@pytest.mark.parametrize("path", llm_modules(), ids=lambda p: p.stem)
def test_llm_imports_point_one_way(path: Path) -> None:
    assert path.stem in LLM_LEVEL, f"llm/{path.name} has no layer; add it to LLM_LAYERS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "selfplay":
            continue
        assert parts[1] not in ("games", "models"), f"llm/{path.name} imports {name}"
        if parts[1] == "llm":
            assert LLM_LEVEL[parts[2]] < LLM_LEVEL[path.stem], f"llm/{path.name}: {name} upward"
        elif not (path.stem == "cli" and name == "selfplay.cli.device_of"):
            assert LEVEL[parts[1]] < LEVEL["loop"], f"llm/{path.name} imports {name}"


def test_the_core_knows_the_command_line_of_llm_alone() -> None:
    for path in core_modules():
        for name in imports(path):
            if name.startswith("selfplay.llm"):
                assert path.stem == "cli" and name.startswith("selfplay.llm.cli"), path


@pytest.mark.parametrize("folder", ["games", "models"])
def test_games_and_models_stand_alone(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        for name in imports(path):
            assert not name.startswith(("selfplay", "games", "models")), f"{path}: {name}"
            assert not (folder == "games" and name.split(".")[0] == "torch"), f"{path}: {name}"


@pytest.mark.parametrize(("package", "allowed"), [
    ("click", {"cli", "mistakes", "players"}),
    ("pyspiel", {"openspiel", "engines", "bench_search", "__init__"}),
    ("matplotlib", {"chart", "chart_runs", "panels"}),
    ("rich", {"console", "compiling"}),
    ("openvino", {"openvino"}),
    ("transformers", {"models", "decode"}),
    ("tokenizers", {"models"}),
    ("peft", {"models"}),
    ("reasoning_gym", {"tasks"}),
    ("trl", set()),
    ("vllm", {"vllm"}),
])
def test_a_library_is_known_in_one_place(package: str, allowed: set[str]) -> None:
    for path in every_module():
        if any(name.split(".")[0] == package for name in imports(path)):
            assert path.stem in allowed, f"{path} imports {package}"


def kernels(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)
            and any("njit" in ast.dump(d) for d in node.decorator_list)]


def test_kernels_call_only_kernels_of_their_own_file() -> None:
    """Numba's cache does not notice edits in another file: the caller would run stale code."""
    files = every_module()
    trees = {path: parsed(path) for path in files}
    total = 0
    for path, tree in trees.items():
        brought = {alias.asname or alias.name for node in ast.walk(tree)
                   if isinstance(node, ast.ImportFrom)
                   and (node.level or (node.module or "").startswith("selfplay"))
                   for alias in node.names}
        for kernel in kernels(tree):
            total += 1
            for call in ast.walk(kernel):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    assert call.func.id not in brought, f"{path.name}: {kernel.name} {call.func.id}"
    assert total >= 10


def test_files_are_short() -> None:
    for path in every_module():
        lines = len(path.read_text().splitlines())
        assert lines <= 420, f"{path.name} has {lines} lines: more than one concept?"


@pytest.mark.parametrize("heavy", ["torch", "numba", "numpy", "matplotlib", "pyspiel",
                                   "transformers"])
@pytest.mark.parametrize("words", [["--help"], ["llm", "--help"]])
def test_help_imports_nothing_heavy(heavy: str, words: list[str]) -> None:
    code = (f"import sys; sys.argv = ['selfplay', *{words}]\n"
            "from selfplay.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"sys.exit({heavy!r} in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"train" in done.stdout
