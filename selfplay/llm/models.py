"""Causal language models and their tokenizers.

The embedded model is a ``selfplay.models.transformer.Transformer``; models that the user gives, and
models with adapters, are Hugging Face's. Both are called in the same way and saved as the same kind
of folder. Weights are in safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.files import must_be_as_saved
from selfplay.common.words import clip
from selfplay.models.transformer import Backbone, Transformer, config_of

WEIGHTS = "*model*.safetensors"  #: model.safetensors, its shards, or adapter_model.safetensors
MODEL = "model.safetensors"  #: weights of the embedded model
#: Files of a checkpoint that say where an adapter's model is, for a user to mend, or that training
#: goes on from.
NOT_LOADED = {"adapter_config.json", "train.json", "train.safetensors"}
OPENED = "<think>"  #: what some templates end a prompt with


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters in place of full training (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    seed: int = 0  #: of the adapters' first weights


def copy_of(model: nn.Module) -> nn.Module:
    """A copy that shares the weights that do not learn."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, frozen)


def reference_of(
    model: nn.Module, init: str | Path, begun: bool, lora: Lora | None = None
) -> nn.Module:
    """A frozen copy of ``model`` as it was before training, on the same device.

    init, lora: what ``load_model`` made the model from. begun: whether training has changed the
    model since, so that its first weights must be read from ``init``. Frozen weights are shared.
    """
    same = copy_of(model)
    if begun:
        same.load_state_dict(load_model(init, lora)[0].state_dict())
    return same.eval().requires_grad_(False)


def merged(model: nn.Module) -> nn.Module:
    """``model`` with its adapters merged into its weights, all of which then learn."""
    if not _is_peft(model):
        return model
    copied: Any = copy.deepcopy(model)
    return copied.merge_and_unload().requires_grad_(True)


@torch.no_grad()
def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of all weights as a checkpoint without adapters names them, tied weights once.
    Adapters are merged into copies, one layer at a time."""
    yield from _merged_layers(without_adapters(model), "", set())


def _merged_layers(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(module, BaseTunerLayer):
        layer = copy.deepcopy(module)
        layer.merge()
        for name, parameter in layer.get_base_layer().named_parameters():
            yield prefix + name, parameter.detach()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield prefix + name, parameter.detach()
    for name, child in module.named_children():
        yield from _merged_layers(child, f"{prefix}{name}.", seen)


def bare_backbone(config: dict[str, Any]) -> nn.Module:
    """A backbone with random weights and no head, from what ``config.to_diff_dict()`` returned.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    from transformers import AutoConfig, AutoModel

    described = AutoConfig.for_model(**config)
    embedded = config_of(described.to_dict())
    return Backbone(embedded) if embedded else AutoModel.from_config(described)


def must_be_a_model(name: str) -> None:
    """Raises UserError where ``name`` is neither a folder with a model in safetensors nor a hub id
    that can be reached. No weights are loaded."""
    path = Path(name)
    if path.is_dir():
        described = any((path / file).is_file() for file in ("config.json", "adapter_config.json"))
        if not described or not any(path.glob(WEIGHTS)):
            lacks = "safetensors" if described else "config.json"
            raise UserError(f"--model {name}: no model in this folder, {lacks} is missing; give a "
                            "folder that save_pretrained wrote, such as RUN/sft/ckpt-000100")
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"--model {name}: no such folder; give one, or a hub id such as "
                        "ORGANISATION/NAME")
    _part_of_model("tokenizer", name, _tokenizer)


def load_model(name: str | Path, lora: Lora | None = None) -> tuple[Any, Any]:
    """(causal language model, its tokenizer) from a folder or a hub id: float32, on the CPU.

    Where the folder holds an adapter (``adapter_config.json``), the model under it is loaded as
    well, from the path in that file. lora: new adapters for a model without any. Raises
    UserError where there is no model, no safetensors file, or no network.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    name = _absolute(name)
    if Path(name).is_dir():
        inside = {path.name for path in Path(name).iterdir()}
        must_be_as_saved(Path(name), inside - NOT_LOADED)
    tokenizer = _part_of_model("tokenizer", name, _tokenizer)
    if _is_adapter(name):
        return _part_of_model("adapter", name, _adapted), tokenizer
    if lora:
        return adapt(_part_of_model("model", name, _given), lora), tokenizer
    return _part_of_model("model", name, _language_model), tokenizer


def load_tokenizer(name: str | Path) -> tuple[Any, int | None]:
    """(a model's tokenizer, the most tokens that the model sees or None where it does not say). No
    weights are loaded. Raises UserError like ``load_model``."""
    from transformers import AutoConfig

    name = _absolute(name)
    tokenizer = _part_of_model("tokenizer", name, _tokenizer)
    config = _part_of_model("config", base_of(name), AutoConfig.from_pretrained)
    most = config.to_dict().get("max_position_embeddings")
    return tokenizer, most if isinstance(most, int) else None


def must_attend(config: Any, name: str) -> None:
    """Raises UserError for a model with layers other than attention (linear, state-space,
    convolution). They carry a state from token to token, and single rows cannot be taken out of
    it; generation does so when completions end, and training when a prompt is read once."""
    from transformers import AutoModelForCausalLM

    kinds = set(config.to_dict().get("layer_types") or ())
    others = kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    classes: Any = AutoModelForCausalLM._model_mapping
    if others or (type(config) in classes and classes[type(config)]._is_stateful):
        what = ", ".join(sorted(others)) or "state"
        raise UserError(f"{name}: a {config.model_type} model has layers of {what}, which cannot "
                        "be trained here; take one with attention in every layer, such as Llama, "
                        "Qwen2, Qwen3, Mistral, Gemma or GPT-2")


def base_of(name: str) -> str:
    """The folder or hub id of the model under an adapter, which may name it by the path from its
    own folder; ``name`` where there is no adapter."""
    from peft import PeftConfig

    if not _is_adapter(name):
        return name
    under = str(PeftConfig.from_pretrained(name).base_model_name_or_path)
    return str((Path(name) / under).resolve()) if under.startswith(".") else under


def adapt(model: nn.Module, lora: Lora) -> nn.Module:
    """``model`` with LoRA adapters on all its linear layers but the head; only they learn."""
    from peft import LoraConfig, get_peft_model

    alpha: Any = lora.alpha  # peft scales by any number, but says int
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, bias="none",
                        target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
        adapted: Any = model
        return get_peft_model(adapted, config)


def save_model(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Save both into ``folder``, which is made, in Hugging Face's form: safetensors and JSON."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    here, weights = ranks.here(), {}
    if here.sharded(model):  # tied weights once
        weights = {name: here.kept(p.detach()).cpu() for name, p in model.named_parameters()}
    if not ranks.leads():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if not isinstance(model, Transformer):
        given: Any = model
        given.save_pretrained(folder, state_dict=weights or None)
        return
    described = {**model.config.to_diff_dict(),
                 "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    weights = weights or {name: p.detach() for name, p in model.named_parameters()}
    save_file({name: p.cpu().contiguous() for name, p in weights.items()},
              folder / MODEL, metadata={"format": "pt"})


def render(tokenizer: Any, question: str) -> list[int]:
    """Tokens of a prompt: the tokenizer's chat template, or the question and a line's end."""
    return chat_tokens(tokenizer, [{"role": "user", "content": question}])


class Asked(Protocol):
    """What is asked, such as an ``Example``: the messages, or the prompt where there are none."""

    @property
    def prompt(self) -> str: ...

    @property
    def messages(self) -> Sequence[Mapping[str, str]]: ...

    @property
    def template(self) -> Mapping[str, Any]: ...


def prompt_of(tokenizer: Any, asked: Asked) -> list[int]:
    """``render`` of an example or a pair, with all of its messages."""
    messages = asked.messages or [{"role": "user", "content": asked.prompt}]
    return chat_tokens(tokenizer, messages, asked.template)


def chat_tokens(
    tokenizer: Any, messages: Sequence[Mapping[str, str]],
    template: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """``render`` of messages. Raises UserError where the chat template refuses them."""
    if tokenizer.chat_template:
        try:
            text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True,
                                                 tokenize=False, **template)
        except Exception as error:  # a template's own words
            raise UserError(f"the model's chat template refuses the messages "
                            f"({clip(str(error), 160)}); change --set data.system or data.template"
                            ) from None
        if text.rstrip().endswith(OPENED):  # in all formats the model opens it
            text = text[: text.rindex(OPENED)]
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer("".join(f"{m['content']}\n" for m in messages))["input_ids"])


def written(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Rows of tokens as text, without the tokens for begin, end, padding and unknown. Other special
    tokens stay: a format's marks, such as <think>, may be special tokens."""
    silent = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
              tokenizer.unk_token_id}
    kept = [[token for token in row if token not in silent] for row in rows]
    return list(tokenizer.batch_decode(kept, skip_special_tokens=False))


def unknown_in(tokenizer: Any, text: str) -> list[str]:
    """The characters of ``text`` that the tokenizer has no token for."""
    unknown = tokenizer.unk_token_id
    return [] if unknown is None else [
        char for char in dict.fromkeys(text)
        if unknown in tokenizer(char, add_special_tokens=False)["input_ids"]]


def complete(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a completion, its end included."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*tokens, tokenizer.eos_token_id]


def completion_texts(
    tokenizer: Any, action: Tensor, mask: Tensor, ended: Tensor, stop: Sequence[str] = ()
) -> list[str]:
    """N completions as text, without their end tokens. action: int64 [N, T]; mask: bool [N, T],
    real tokens; ended: bool [N], whether the last real token is an end token, or the last of one
    of the texts ``stop``, which stay."""
    rows = [row[:n] for row, n in zip(action.tolist(), mask.sum(1).tolist(), strict=True)]
    texts = written(tokenizer, rows) if stop else [""] * len(rows)
    by_token = [end and not stopped(text, stop)
                for end, text in zip(ended.tolist(), texts, strict=True)]
    return written(tokenizer, [row[:len(row) - end]
                               for row, end in zip(rows, by_token, strict=True)])


def stopped(text: str, stop: Sequence[str]) -> bool:
    """Whether one of the texts ``stop`` stands in it."""
    return any(one in text for one in stop)


def padded_tokens(
    rows: Sequence[Sequence[int]], pad: int, left: bool = False
) -> tuple[Tensor, Tensor]:
    """(tokens int64 [n, L], mask bool [n, L], True at real tokens) of rows of different lengths.
    left: the padding comes first, so that every row ends in the last column."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        start = width - len(row) if left else 0
        tokens[i, start:start + len(row)] = torch.tensor(list(row), dtype=torch.int64)
        mask[i, start:start + len(row)] = True
    return tokens, mask


def trimmed(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the outer columns that are padding in every row, as in a part of a batch."""
    real = mask.any(0).nonzero()
    first, end = int(real[0]), int(real[-1]) + 1
    return tokens[:, first:end], mask[:, first:end]


def end_tokens(model: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion, the tokenizer's end token first."""
    config = getattr(model, "generation_config", None)
    more = getattr(config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def _absolute(name: str | Path) -> str:
    """A folder's absolute path; a hub id as it is."""
    return str(Path(name).resolve() if Path(name).is_dir() else name)


def _is_adapter(name: str) -> bool:
    return (Path(name) / "adapter_config.json").is_file()


def _is_peft(model: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def without_adapters(model: nn.Module) -> Any:
    """``model`` without what holds its adapters; a model without adapters as it is."""
    plain: Any = model
    return plain.get_base_model() if _is_peft(model) else plain


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-text token; choose another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def _language_model(name: str) -> nn.Module:
    """The embedded model, where the folder ``name`` holds one, or one of Hugging Face's."""
    from transformers import AutoConfig

    weights = Path(name) / MODEL
    described = AutoConfig.from_pretrained(name, trust_remote_code=False)
    config = config_of(described.to_dict()) if weights.is_file() else None
    if config is None:
        return _given(name)
    with torch.device("meta"):  # no random weights
        model = Transformer(config)
    model.load_state_dict(load_file(weights), assign=True)
    return model.float().eval()


def _given(name: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    must_attend(AutoConfig.from_pretrained(name, trust_remote_code=False), name)
    return AutoModelForCausalLM.from_pretrained(
        name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)


def _adapted(name: str) -> nn.Module:
    from peft import PeftModel

    under = base_of(name)
    if Path(under).is_absolute() and not Path(under).is_dir():
        raise UserError(f"{name}: its adapter is for the model in {under}, which is gone; put it, "
                        "or a link to it, there, or its folder into adapter_config.json")
    if not (Path(name) / "adapter_model.safetensors").is_file():  # peft would take a pickle
        raise UserError(f"--model {name}: adapter_model.safetensors is not in it; save the adapter "
                        "as safetensors")
    return PeftModel.from_pretrained(_given(under), name, is_trainable=True)


def _part_of_model(what: str, name: str, load: Callable[[str], Any]) -> Any:
    try:
        return load(name)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        why = f"{type(error).__name__}: {clip(str(error), 160)}"
        raise UserError(f"--model {name}: no {what} could be loaded from this folder or hub id "
                        f"({why}); give a folder that save_pretrained wrote (safetensors), or a "
                        "hub id with the network there") from None
