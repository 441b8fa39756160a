"""Completions written by torch on the machines of a cluster: a ``Generator`` over the transport.

The prompts of a call are cut into parts, one or so an actor; a part is made from the weights, its
prompts and the random numbers of its completions alone, so that a part asked for again, after an
actor has died, is the same. The model goes into the object store once a version, and with a call
only what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, pairwise
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Farm
from selfplay.common.errors import UserError
from selfplay.llm.generate import Samples, Sampling, completion_keys, must_see, sample_completions
from selfplay.llm.models import copy_of, end_tokens, padded_tokens

POLL = 0.2  #: seconds between two looks at what has come
ALONE = 300.0  #: seconds without an actor; until one has started, torch and all, a minute goes by
_calls = count(1)  #: numbers of the calls of all generators, which may take turns on a cluster


class TextMaker(Maker):
    """Writes completions on an actor; see ``actor.Maker``."""

    def __init__(self, ends: tuple[int, ...], pad: int, device: str) -> None:
        self.ends, self.pad, self.device = ends, pad, device
        self.model: Any = None
        self.version, self.asked = "", dict[str, Any]()

    def load(self, weights: Any) -> None:
        """What a call asks, and the model where it is another than before."""
        import ray

        if weights["version"] != self.version:
            model = ray.get(weights["model"][0])
            self.model, self.version = model.to(self.device).eval(), weights["version"]
        self.asked = weights

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """Part ``key[1]`` of call ``key[0]``: tokens, mask, log-probabilities, ended."""
        asked = self.asked
        (start, end), group = asked["cuts"][key[1]], asked["group"]
        found = sample_completions(
            self.model, torch.tensor(asked["tokens"][start:end]),
            torch.tensor(asked["mask"][start:end]), group, Sampling(**asked["sampling"]), 0,
            self.ends, self.pad, keys=np.array(asked["keys"][start * group:end * group]))
        made = (found.action, found.mask, found.logp, found.ended)
        return tuple(part.cpu().numpy() for part in made), {"games": float(len(found.ended))}


@dataclass
class RayGenerator:
    """``Generator`` on ``farm``. model: whose weights answer from the next call on; it must not
    change until then."""

    name: ClassVar[str] = "ray"
    farm: Farm
    ends: tuple[int, ...]
    pad: int
    model: nn.Module
    wanted: object = field(default_factory=object)  #: names the weights of ``model``
    sent: object = None
    version: str = ""  #: no two are the same, those of other generators included
    held: list[Any] = field(default_factory=list)  #: the reference of the model in the store

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """As ``generate.TorchGenerator``, on the CPU."""
        config: Any = self.model.config
        must_see(config, max(map(len, prompts)) + sampling.max_new_tokens)
        tokens, mask = padded_tokens(prompts, self.pad, left=True)
        if self.sent is not self.wanted:
            self.version, self.sent = uuid4().hex, self.wanted
            self.held = [self.farm.put(copy_of(self.model).cpu().requires_grad_(False))]
        parts = max(1, min(len(prompts), self.farm.alive * self.farm.threads))
        edges = [round(k * len(prompts) / parts) for k in range(parts + 1)]
        job = Order(f"{__name__}:{TextMaker.__name__}", {"ends": self.ends, "pad": self.pad})
        if self.farm.job != job:
            self.farm.begin(job)
        number = next(_calls)
        self.farm.publish(number, {
            "version": self.version, "model": self.held, "group": group,
            "sampling": asdict(sampling), "cuts": list(pairwise(edges)),
            "tokens": tokens.numpy(), "mask": mask.numpy(),
            "keys": completion_keys(tokens, mask, group, seed)})
        for part in range(parts):
            self.farm.ask((number, part))
        came = _pieces(self.farm, number, parts)
        columns = [_joined([came[part][column] for part in range(parts)], self.pad if not column
                           else 0) for column in range(4)]
        return Samples(tokens, mask, *columns)

    def refresh(self, model: nn.Module) -> None:
        """Before the next answers the actors get the weights that ``model`` then has."""
        self.model, self.wanted = model, object()

    def figures(self) -> dict[str, float]:
        """actors: that are there; restarts: so far."""
        return {"actors": float(self.farm.alive), "restarts": float(self.farm.restarts)}


def text_engine(farm: Farm) -> Callable[[nn.Module, Any], RayGenerator]:
    """What lets a run's completions be written on ``farm``: of (model, tokenizer)."""
    return lambda model, tokenizer: RayGenerator(
        farm, end_tokens(model, tokenizer), tokenizer.pad_token_id, model)


def _pieces(farm: Farm, number: int, parts: int) -> dict[int, list[Tensor]]:
    """What has been made of call ``number``, by part. Raises UserError where for ALONE seconds
    nobody was there to make it."""
    came: dict[int, list[Tensor]] = {}
    seen = time.monotonic()
    while len(came) < parts:
        for found in farm.poll(POLL):
            if found.key[0] == number:
                came[found.key[1]] = [torch.tensor(array) for array in found.output.piece]
        if farm.alive:
            seen = time.monotonic()
        elif time.monotonic() - seen > ALONE:
            raise UserError(f"Ray: no actor has been there for {ALONE:.0f} s; start a machine (ray "
                            "start --address=HOST:PORT) or leave room on one for an actor (--set "
                            "ray.cpus=1), then run the same command again")
    return came


def _joined(parts: list[Tensor], fill: int) -> Tensor:
    """Rows of parts [n, T] under each other, filled up to the longest; of [n] as they are."""
    if parts[0].dim() == 1:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=fill)
                      for part in parts])
