"""A vLLM server as a ``Generator``: asked over HTTP, and given new weights after every update.

Written after vLLM 0.26 to 0.32: completions by its OpenAI-compatible ``/v1/completions`` with
tokens in and out (``return_token_ids``); weights by its own weight transfer
(docs.vllm.ai/en/v0.32.0/training/weight_transfer), whose trainer's side
(``WeightTransferTrainerFactory``) sends the tensors by NCCL while the server's side is told over
HTTP: ``/init_weight_transfer_engine`` once, then ``/pause``, ``/start_weight_update``,
``/update_weights``, ``/finish_weight_update`` and ``/resume`` for each update. Tested against a
server of the tests' own that speaks this; no GPU has run it.

The server has been given other weights than it started with, so nothing it says of itself tells
which: before the first answers with new weights its greedy tokens are compared with the trainer's.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import torch
from torch import Tensor, nn

from selfplay.common.errors import Absent, UserError
from selfplay.common.words import clip
from selfplay.learn.rollout import Rollout
from selfplay.llm.engines.vllm import columns_of
from selfplay.llm.generate import Samples, Sampling, TorchGenerator, completion_keys, must_see
from selfplay.llm.models import padded_tokens, plain_weights
from selfplay.llm.policy import Net, Prompts, TextPolicy

AT_ONCE = 64  #: requests under way, one a prompt; vLLM batches them
PROBES, PROBED = 4, 16  #: prompts and tokens of each by which a server's weights are checked
#: nats that the trainer may find a greedy token of the server worse than its own. Rounding to
#: bfloat16 turns near ties round; other weights are nats away.
WORSE = {"float32": 0.01, "float16": 0.2, "bfloat16": 0.5}
REMEDY = "start it as docs/language-models.md says and run the same command again, or go on with " \
    "--set sample.engine=torch"


@dataclass(frozen=True)
class VllmServer:
    """The HTTP side of a vLLM server; also the client that vLLM's trainer side drives.

    Every method raises ``Absent``, one line with the remedy, where the server does not answer or
    refuses.
    """

    url: str  #: without a path
    seconds: float = 600.0  #: that an answer may take

    def ask(self, path: str, body: Mapping[str, Any] | None = None, seconds: float = 0.0) -> Any:
        """GET ``path``, or POST ``body`` to it; the JSON that comes back."""
        key = os.environ.get("VLLM_API_KEY")
        known = {"Authorization": f"Bearer {key}"} if key else {}
        request = Request(
            self.url + path, None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", **known})
        try:
            with _OPENER.open(request, timeout=seconds or self.seconds) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            why = clip(error.read().decode(errors="replace"), 160)
            raise Absent(f"{self.url}{path}: vLLM refuses, {error.code} {why}; {REMEDY}") from None
        except (OSError, HTTPException, ValueError) as error:
            why = clip(str(getattr(error, "reason", error)) or type(error).__name__, 120)
            raise Absent(f"{self.url}: no vLLM server answers there ({why}); {REMEDY}") from None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Tell the server's workers where the trainer waits for them."""
        self.ask("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """New weights are coming."""
        self.ask("/start_weight_update", {})

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the weights named; returns once they have come."""
        self.ask("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """All weights have come."""
        self.ask("/finish_weight_update",
                 {} if weight_version is None else {"weight_version": weight_version})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block the server answers nothing; what was under way has been answered."""
        self.ask("/pause?mode=wait", {})
        try:
            yield
            self.ask("/reset_prefix_cache", {})
        except BaseException:
            with suppress(Absent):  # the first failure is the one to tell
                self.ask("/resume", {})
            raise
        self.ask("/resume", {})


_OPENER = build_opener(ProxyHandler({}))  #: a server of one's own is not behind a proxy


@dataclass
class Link:
    """The one way for weights from this process to a server."""

    server: VllmServer
    engine: Any = None  #: vLLM's trainer side; None before the first weights
    model: nn.Module = field(default_factory=nn.Identity)  #: whose weights go next
    holds: object = None  #: which weights the server has

    def send(self, model: nn.Module, dtype: str) -> None:
        """Send all weights of ``model``, adapters merged, as ``dtype``. Raises UserError where
        vLLM's side fails."""
        self.model, self.holds = model, None
        try:
            with self.server.paused():
                if self.engine is None:
                    self.engine = _transfer(self, getattr(torch, dtype))
                self.engine.send_weights()
        except (RuntimeError, ValueError, OSError, ImportError, TypeError) as error:
            self.engine = None
            why = f"{type(error).__name__}: {clip(str(error), 160)}"
            raise Absent(f"{self.server.url}: vLLM's weight transfer fails ({why}); the trainer "
                         "and the server want the same vLLM and a GPU each; "
                         f"{REMEDY}") from None


def _transfer(link: Link, dtype: torch.dtype) -> Any:
    """vLLM's trainer side, connected with all workers of the link's server."""
    from vllm.distributed.weight_transfer import (
        ParamMeta,
        WeightSource,
        WeightTransferTrainerFactory,
    )
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    class Weights(WeightSource):
        """The weights of the link's model, as a checkpoint names them."""

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, dtype, tuple(w.shape)) for name, w in plain_weights(link.model)]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, weight in plain_weights(link.model):
                yield name, weight.detach().to(dtype).contiguous()

    address, port = _reached_at(link.server.url)
    workers = int(link.server.ask("/get_world_size")["world_size"])
    return WeightTransferTrainerFactory.trainer_init(
        init_info=NCCLTrainerInitInfo(master_address=address, master_port=port,
                                      world_size=1 + workers, rank=0, packed=True),
        client=link.server, source=Weights())


def _reached_at(url: str) -> tuple[str, int]:
    """(the address by which the machine of ``url`` reaches this one, a port that is free)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((urlsplit(url).hostname or "", 9))  # sends nothing
        address = str(probe.getsockname()[0])
    with socket.socket() as free:
        free.bind(("", 0))
        return address, int(free.getsockname()[1])


@lru_cache
def link_to(url: str) -> Link:
    """This process's link to the server at ``url``; a run has several generators, and one link."""
    return Link(VllmServer(url))


@dataclass
class ServerGenerator:
    """model: whose weights the server shall have at the next call; it must not change until then.

    ends, pad, tokenizer's; dtype: of the weights on their way, as the server computes.
    """

    name: ClassVar[str] = "vllm-server"
    link: Link
    served: str  #: the model's name at the server
    ends: tuple[int, ...]
    pad: int
    dtype: str
    model: nn.Module
    wanted: object = field(default_factory=object)  #: names the weights of ``model``
    seen: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """As ``VllmGenerator``. Raises Absent where the server does not answer, UserError where its
        weights are not the trainer's."""
        config: Any = self.model.config
        must_see(config, max(map(len, prompts)) + sampling.max_new_tokens)
        if self.link.holds is not self.wanted:
            start = time.perf_counter()
            self.link.send(self.model, self.dtype)
            self.seen = {"handover_seconds": time.perf_counter() - start,
                         **self.compared(prompts[:PROBES])}
            self.link.holds = self.wanted
        return self._answers(prompts, group, sampling, seed)

    def refresh(self, model: nn.Module) -> None:
        """Before the next answers the server gets the weights that ``model`` then has."""
        self.model, self.wanted = model, object()

    def figures(self) -> dict[str, float]:
        """handover_seconds, of sending weights and comparing; greedy_same, the share of the
        server's greedy tokens that are the trainer's; greedy_worse, the most that one of the
        others is worse (nats, by the trainer)."""
        return self.seen

    def compared(self, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
        """Greedy tokens of the server beside the trainer's, in ``figures``' words. Of each
        completion what comes before the first difference and that one count. Raises UserError
        where one is so much worse that rounding cannot be the reason."""
        model, how = self.model, Sampling(temperature=0.0, max_new_tokens=PROBED)
        mine = TorchGenerator(model, self.ends, self.pad)(prompts, 1, how, 0)
        theirs = self._answers(prompts, 1, how, 0)
        policy = TextPolicy(Net(model), self.ends, self.pad, how)
        device = mine.action.device
        batch = Prompts(theirs.prompt, theirs.prompt_mask, 0)
        with torch.no_grad():
            here = policy.evaluate(Rollout(
                policy.inputs(batch), theirs.action.to(device), theirs.mask.to(device),
                theirs.logp.to(device), torch.zeros(theirs.mask.shape, device=device),
                torch.arange(len(prompts), device=device))).logp.cpu()
        same, worse, count = 0, 0.0, 0
        for i in range(len(prompts)):
            a, b = (side.action[i][side.mask[i]].tolist() for side in (mine, theirs))
            first = next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if first is None:
                same, count = same + min(len(a), len(b)), count + max(len(a), len(b))
                worse = worse if len(a) == len(b) else float("inf")
            else:
                same, count = same + first, count + first + 1
                worse = max(worse, float(mine.logp[i, first]) - float(here[i, first]))
        if worse > WORSE[self.dtype]:
            raise UserError(
                f"{self.link.server.url}: after new weights its greedy tokens are not the "
                f"trainer's (one is {worse:.2g} nats worse), so it has other weights or another "
                f"model; restart it with the run's model, and {REMEDY.partition('and ')[2]}")
        return {"greedy_same": same / max(count, 1), "greedy_worse": worse}

    def _answers(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        tokens, mask = padded_tokens(prompts, self.pad, left=True)
        keys = completion_keys(tokens, mask, 1, seed)
        with ThreadPoolExecutor(min(len(prompts), AT_ONCE)) as pool:
            answered = pool.map(
                lambda prompt, key: self._answer(prompt, int(key) >> 2, group, sampling),
                prompts, keys)
            rows = [row for rows in answered for row in rows]
        return Samples(tokens, mask, *columns_of(rows, self.ends, self.pad))

    def _answer(
        self, prompt: Sequence[int], seed: int, group: int, sampling: Sampling
    ) -> list[tuple[list[int], list[float]]]:
        """(tokens, log-probabilities) of ``group`` answers to one prompt."""
        server = self.link.server
        found = server.ask("/v1/completions", {
            "model": self.served, "prompt": list(prompt), "n": group, "seed": seed,
            "temperature": sampling.temperature, "top_p": sampling.top_p,
            # what the model's own generation_config.json may say otherwise
            "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            "max_tokens": sampling.max_new_tokens, "stop_token_ids": list(self.ends),
            "logprobs": 0, "return_token_ids": True})
        try:
            choices = sorted(found["choices"], key=lambda choice: choice["index"])
            rows = [(list(map(int, choice["token_ids"])),
                     [float(v) for v in choice["logprobs"]["token_logprobs"]])
                    for choice in choices]
        except (KeyError, TypeError, ValueError):
            rows = []
        if len(rows) != group or not all(0 < len(t) == len(v) for t, v in rows):
            raise Absent(f"{server.url}/v1/completions: no tokens with their log-probabilities in "
                         f"the answer; vLLM 0.26 or later wanted; {REMEDY}")
        return rows


def served_model(server: VllmServer, given: str) -> str:
    """The name of the run's model at ``server``. Raises UserError where it serves another."""
    try:
        cards = server.ask("/v1/models", seconds=10.0)["data"]
        names = [(str(card["id"]), str(card.get("root") or card["id"])) for card in cards]
    except (KeyError, TypeError, AttributeError):
        raise Absent(f"{server.url}: answers, but not as vLLM does; {REMEDY}") from None
    last = given.rstrip("/").rpartition("/")[2]
    for name, root in names:
        if last in (name.rstrip("/").rpartition("/")[2], root.rstrip("/").rpartition("/")[2]):
            return name
    there = ", ".join(name for name, _ in names) or "nothing"
    raise UserError(f"{server.url}: serves {clip(there, 80)}, and the run learns {given}; start it "
                    f"with vllm serve {given}, or --set sample.engine=torch")
