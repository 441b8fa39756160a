"""Nets: shapes in, logits and values out; in what arithmetic devices run them. Nothing here knows
a game.

``NetSpec("6x64", obs_shape, num_actions, ownership)`` says what to build (``spec_for`` that of a
game), ``build`` builds it.
The size is the one dial: residual blocks x channels. ``PRESETS`` are those with measured figures;
any ``BxC`` works.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .resnet import NetOutput, ResNet, folded, placed

__all__ = ["DTYPES", "NETS", "OWN", "PRESETS", "NetError", "NetOutput", "NetSpec", "OwnNetError",
           "build", "choose_dtype", "dimensions", "flops", "folded", "has_fast_bfloat16",
           "names_file", "padded_rows", "placed", "seeded", "spec_for"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: On a CPU an odd batch is filled up to a multiple of this, a smaller one to a power of two: oneDNN
#: compiles a kernel per shape, and some (of 3 rows) are slower than the next larger.
CPU_MULTIPLE = 16
PRESETS = ("2x32", "4x32", "6x64", "6x96", "10x128")


class NetError(ValueError):
    """A net that does not exist; the message is one line for the user."""


@dataclass(frozen=True)
class NetSpec:
    """What a net is built from.

    Raises NetError for a size that is not ``BLOCKSxCHANNELS`` (or ``FAMILY:BLOCKSxCHANNELS``,
    FAMILY a name in NETS, or ``path.py:NAME``, a function of the user's).
    """

    size: str  #: "6x64": 6 residual blocks of 64 channels
    obs_shape: tuple[int, int, int]  #: (C, H, W)
    num_actions: int
    ownership: bool = False  #: has an ownership and a score head
    komi: int = 0  #: the last so many planes spell the komi (see ``resnet.komi_inputs``)

    def __post_init__(self) -> None:
        object.__setattr__(self, "obs_shape", tuple(self.obs_shape))  # JSON brings a list
        if not names_file(self.size):
            dimensions(self.size)

    @property
    def any_board(self) -> bool:
        """Whether its net takes boards of any size, and any komi."""
        return self.komi > 0 and not names_file(self.size)


def spec_for(game: Any, size: str) -> NetSpec:
    """The net of ``size`` for a game, by its shapes."""
    return NetSpec(size, game.obs_shape, game.num_actions, game.has_ownership, game.komi_planes)


#: family -> constructor(blocks, channels, obs_shape, num_actions, ownership, komi)
NETS: dict[str, Callable[[int, int, tuple[int, int, int], int, bool, int], nn.Module]] = {
    "resnet": ResNet,
}


#: Nets of the user's own: ``file.py:NAME`` -> builder. Only what the user has named is in here:
#: a checkpoint that came from elsewhere cannot have a file run.
OWN: dict[str, Callable[[NetSpec], nn.Module]] = {}


class OwnNetError(NetError):
    """A net of somebody's own whose file was not named."""


def build(spec: NetSpec) -> nn.Module:
    """A freshly initialised net; weights come from torch's global generator (see ``seeded``).

    Its forward takes float [B, C, H, W] and returns NetOutput.
    """
    if names_file(spec.size):
        name = spec.size.rpartition("/")[2]
        if name not in OWN:
            raise OwnNetError(f"its net is built by {spec.size}, which is not run unless you name "
                              f"it: give --net {spec.size}")
        return OWN[name](spec)
    family, blocks, channels = dimensions(spec.size)
    return NETS[family](blocks, channels, spec.obs_shape, spec.num_actions, spec.ownership,
                        spec.komi)


@lru_cache(maxsize=32)
def flops(spec: NetSpec) -> int:
    """Floating-point operations (2 per multiply-add) of one forward pass of one position.

    Counted over the convolutions and matrix products that the net runs (on no data).
    """
    with torch.device("meta"), torch.no_grad():
        net = folded(build(spec).eval())
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, *spec.obs_shape))
    return counter.get_total_flops()


def names_file(size: str) -> bool:
    """Whether a function of the user's builds nets of this size."""
    return ".py:" in size


def dimensions(size: str) -> tuple[str, int, int]:
    """(family, blocks, channels). Raises NetError."""
    found = re.fullmatch(r"(?:([a-z]+):)?([1-9]\d?)x([1-9]\d{0,3})", size)
    if not found or (found[1] or "resnet") not in NETS or int(found[3]) < 8:
        raise NetError(f"net {size!r}: write it as BLOCKSxCHANNELS (at least 8 channels), "
                       f"for example {', '.join(PRESETS)}")
    return found[1] or "resnet", int(found[2]), int(found[3])


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
