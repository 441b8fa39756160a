"""The arithmetic in which a device runs nets fastest, and weights that follow from a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: On a CPU an odd batch is filled up to a multiple of this, a smaller one to a power of two: oneDNN
#: compiles a kernel per shape, and some (of 3 rows) are slower than the next larger.
CPU_MULTIPLE = 16


@lru_cache(maxsize=8)
def has_fast_bfloat16(device: str) -> bool:
    """Whether ``device`` has instructions to multiply bfloat16 (AVX512_BF16, AMX, a recent GPU)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of "float32", "bfloat16" or "auto" (bfloat16 where ``has_fast_bfloat16``).

    Raises KeyError for another name.
    """
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return DTYPES[name]


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with torch's CPU generator seeded; the generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def padded_rows(rows: int) -> int:
    """How many rows a batch of ``rows`` is filled up to on a CPU.

    The time grows with it: a game played alone waits for one row, not for 16. The last bits of
    outputs may depend on it below 16 rows, where oneDNN takes other kernels, and not above.
    """
    if rows >= CPU_MULTIPLE:
        return -(-rows // CPU_MULTIPLE) * CPU_MULTIPLE
    return 1 << max(rows - 1, 0).bit_length()
