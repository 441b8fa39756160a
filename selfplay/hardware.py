"""What a run has been measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


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
