"""The machine of a run: its processor, the memory of this process, a place for what is compiled.
"""

from __future__ import annotations

import atexit
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from selfplay.common.errors import UserError

_PAGE = resource.getpagesize()


def rss_mb() -> float:
    """Resident memory in megabytes (2**20 bytes): now on Linux, its peak elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def reset_peak() -> None:
    """Let ``peak_mb`` count from now, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float:
    """The most resident memory in megabytes since ``reset_peak``, or since the process began."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines()
                    if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return rss_mb()


def hardware(device: str) -> str:
    """One line: processor, cores, accelerator."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        name = models[0] if models else name
    line = f"{name}, {os.cpu_count()} cores"
    if device.startswith("cuda"):
        import torch

        line += f", {torch.cuda.get_device_name()}"
    return line


@lru_cache(maxsize=1)
def keep_compiled() -> None:
    """Let Numba keep what it compiles in a temporary folder, for this process alone, where neither
    the package's folders nor the user's can be written: without any place it compiles nothing.

    Numba must not have been told of another that can be written (NUMBA_CACHE_DIR), nor kernels been
    imported. Raises UserError where there is no temporary folder either.
    """
    package = Path(__file__).parent.parent
    of_user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")
    in_tree = [package / name / "__pycache__" for name in ("search", "games")]
    named = os.environ.get("NUMBA_CACHE_DIR")
    if (named and _writable(Path(named))) or all(map(_writable, in_tree)) or _writable(of_user):
        return
    try:
        folder = tempfile.mkdtemp(prefix="selfplay-")
    except OSError:
        raise UserError("no folder can be written: not the package's, nor ~/.cache, nor one for "
                        "temporary files; name one with TMPDIR") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder


def _writable(folder: Path) -> bool:
    """Whether files can be made in ``folder``, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
