"""vLLM's server as far as it is used, over HTTP, with a tiny model of torch's; and the trainer's
side of its weight transfer (``vllm.distributed.weight_transfer``), with a TCP connection in NCCL's
place. Both are strict: a call out of order fails, and the tensors' bytes travel apart from the
calls that announce them, so that a trainer who waits for one before the other hangs, as with vLLM.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import fake_vllm
import torch
from torch import Tensor

from selfplay.llm.generate import Sampling

SECONDS = 20.0  #: after which a test that hangs fails


# ------------------------------------------------------------------------------- the trainer's side


@dataclass(frozen=True)
class ParamMeta:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class WeightSource(ABC):
    @abstractmethod
    def metadata(self) -> list[ParamMeta]: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


@dataclass(kw_only=True)
class NCCLTrainerInitInfo:
    backend: ClassVar[str] = "nccl"
    master_address: str
    master_port: int
    world_size: int
    rank: int
    packed: bool = True


class Trainer:
    """What ``WeightTransferTrainerFactory.trainer_init`` returns."""

    def __init__(self, info: NCCLTrainerInitInfo, client: Any, source: WeightSource) -> None:
        assert info.rank == 0 and info.world_size == 2
        self.client, self.source = client, source
        with socket.create_server(("", info.master_port)) as listening:
            listening.settimeout(SECONDS)
            telling = _aside(lambda: client.init_weight_transfer_engine(
                {"master_address": info.master_address, "master_port": info.master_port,
                 "rank_offset": 1, "world_size": info.world_size}))
            self.wire, _ = listening.accept()
            telling()

    def send_weights(self) -> None:
        meta = self.source.metadata()
        self.client.start_weight_update()
        telling = _aside(lambda: self.client.update_weights({
            "names": [m.name for m in meta], "shapes": [list(m.shape) for m in meta],
            "dtype_names": [str(m.dtype).removeprefix("torch.") for m in meta]}))
        for declared, (name, tensor) in zip(meta, self.source, strict=True):
            assert declared == ParamMeta(name, tensor.dtype, tuple(tensor.shape))
            assert tensor.is_contiguous()
            self.wire.sendall(tensor.detach().view(torch.uint8).numpy().tobytes())
        telling()
        self.client.finish_weight_update()


class WeightTransferTrainerFactory:
    @staticmethod
    def trainer_init(*, init_info: NCCLTrainerInitInfo, client: Any, source: Any) -> Trainer:
        return Trainer(init_info, client, source)


def _aside(work: Any) -> Any:
    """``work`` in a thread; call what comes back to wait for it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> None:
        thread.join(SECONDS)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    return wait


def installed(monkeypatch: Any) -> None:
    """Let the trainer import vLLM's names."""
    fake_vllm.installed(monkeypatch)
    transfer = ModuleType("vllm.distributed.weight_transfer")
    nccl = ModuleType("vllm.distributed.weight_transfer.nccl_engine")
    for thing in (ParamMeta, WeightSource, WeightTransferTrainerFactory):
        setattr(transfer, thing.__name__, thing)
    nccl.NCCLTrainerInitInfo = NCCLTrainerInitInfo  # type: ignore[attr-defined]
    for module in (ModuleType("vllm.distributed"), transfer, nccl):
        monkeypatch.setitem(sys.modules, module.__name__, module)


# -------------------------------------------------------------------------------- the server's side


@dataclass
class State:
    """A server's engine. deaf: it takes new weights and does not use them."""

    inside: fake_vllm.Inside
    name: str
    deaf: bool = False
    paused: bool = False
    updating: bool = False
    stale: bool = False  #: cached prefixes are of older weights
    under_way: int = 0
    wire: Any = None
    asked: int = 0  #: completion requests
    changed: threading.Condition = field(default_factory=threading.Condition)
    before: Any = None  #: called with the number of each completion request

    def completions(self, body: dict[str, Any]) -> Any:
        assert body["model"] == self.name and body["return_token_ids"] and body["logprobs"] == 0
        with self.changed:
            assert self.changed.wait_for(lambda: not self.paused, SECONDS)
            assert not self.stale and not self.updating
            self.under_way += 1
            self.asked += 1
            number = self.asked
        try:
            if self.before:
                self.before(number)
            how = Sampling(body["temperature"], body["top_p"], body["max_tokens"])
            rows = [fake_vllm.answer(self.inside.model, body["prompt"], body["stop_token_ids"], how,
                                     body["seed"] + i) for i in range(body["n"])]
        finally:
            with self.changed:
                self.under_way -= 1
                self.changed.notify_all()
        return {"choices": [
            {"index": i, "text": "", "token_ids": tokens, "logprobs": {"token_logprobs": logps}}
            for i, (tokens, logps) in reversed(list(enumerate(rows)))]}

    def pause(self, mode: str) -> Any:
        with self.changed:
            assert mode == "wait" and not self.paused
            self.paused = True
            assert self.changed.wait_for(lambda: self.under_way == 0, SECONDS)
        return {"status": "paused"}

    def resume(self) -> Any:
        with self.changed:
            self.paused = False
            self.changed.notify_all()
        return {"status": "resumed"}

    def init(self, info: dict[str, Any]) -> Any:
        self.wire = socket.create_connection((info["master_address"], info["master_port"]), SECONDS)
        return {"message": "Weight transfer initialized"}

    def start(self) -> Any:
        assert self.paused and not self.updating
        self.updating = True
        return {"message": "Weight update started"}

    def update(self, info: dict[str, Any]) -> Any:
        assert self.updating
        weights = []
        for name, kind, shape in zip(info["names"], info["dtype_names"], info["shapes"],
                                     strict=True):
            dtype = getattr(torch, kind)
            data = b""
            while len(data) < prod(shape) * dtype.itemsize:
                data += self.wire.recv(prod(shape) * dtype.itemsize - len(data))
            weights.append((name, torch.frombuffer(bytearray(data), dtype=dtype).view(shape)))
        if not self.deaf:
            self.inside.load_weights(weights)
        self.stale = True
        return {"message": "Weights updated"}

    def finish(self) -> Any:
        assert self.updating
        self.updating = False
        return {"message": "Weight update finished"}

    def reset(self) -> Any:
        assert self.paused and not self.updating
        self.stale = False
        return None


class Running:
    """A server in threads of this process."""

    def __init__(self, folder: str, dtype: str = "float32", name: str = "") -> None:
        self.state = state = State(fake_vllm.Inside(folder, dtype), name or folder)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                self.answer({"/v1/models": lambda: {"data": [{"id": state.name}]},
                             "/get_world_size": lambda: {"world_size": 1}}[self.path])

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path, words = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
                self.answer({
                    "/v1/completions": lambda: state.completions(body),
                    "/pause": lambda: state.pause(words["mode"][0]), "/resume": state.resume,
                    "/init_weight_transfer_engine": lambda: state.init(body["init_info"]),
                    "/start_weight_update": state.start, "/finish_weight_update": state.finish,
                    "/update_weights": lambda: state.update(body["update_info"]),
                    "/reset_prefix_cache": state.reset}[path])

            def answer(self, work: Any) -> None:
                try:
                    code, found = 200, work()
                except ConnectionError:  # the test wants a server that is gone
                    self.close_connection = True
                    return
                except AssertionError as error:
                    code, found = 500, {"error": f"out of order: {error}"}
                data = json.dumps(found).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
