"""The machine of a run: its processor, the memory of this process, a limit on time."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from pathlib import Path

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
