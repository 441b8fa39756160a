"""Causal language models and their tokenizers.

The embedded model is a ``selfplay.models.transformer.Transformer``; models that are given, and
models with adapters, are Hugging Face's. Both are called alike and saved as the same kind of
folder. Weights are in safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.common.files import must_be_as_saved
from selfplay.models import seeded
from selfplay.models.transformer import Backbone, Transformer, TransformerConfig, config_of

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
HEAD = 32  #: width of an attention head of the embedded model
WEIGHTS = "*model*.safetensors"  #: model.safetensors, its shards, or adapter_model.safetensors
MODEL = "model.safetensors"  #: weights of the embedded model
#: Files of a checkpoint that say where an adapter's model is, for a user to mend, or that training
#: goes on from.
NOT_LOADED = {"adapter_config.json", "train.json", "train.safetensors"}
OPENED = "<think>"  #: what some templates end a prompt with
POSITIONS = 1024  #: tokens that the embedded model can see
#: One turn of a conversation for the embedded model: the question and a line's end.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ '\\n' }}"

_PLAIN = "".join(map(chr, range(32, 127))) + "\n"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters in place of full training (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    seed: int = 0  #: of the adapters' first weights


class Net(nn.Module):
    """What learns: a causal language model and, for PPO, a value model beside it."""

    def __init__(self, policy: nn.Module, value: nn.Module | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.value = value


class ValueModel(nn.Module):
    """A backbone of its own with a scalar head that begins at 0."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """float32 [N, L]: the value after each of the tokens int64 [N, L]."""
        seen = self.backbone(input_ids=tokens, attention_mask=mask, position_ids=positions,
                             use_cache=False)
        return self.head(seen.last_hidden_state).squeeze(-1).float()


def value_model(policy: nn.Module) -> ValueModel:
    """A value model whose backbone is a copy of ``policy``'s. The copy of a LoRA model has its own
    adapters and shares the frozen weights."""
    plain = policy.get_base_model() if _is_peft(policy) else policy
    return ValueModel(copy_of(plain.get_decoder()), plain.config.hidden_size)


def copy_of(model: nn.Module) -> nn.Module:
    """A copy that shares the weights that do not learn."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, frozen)


def reference_of(
    model: nn.Module, init: str | Path, begun: bool, lora: Lora | None = None,
    dtype: str = "float32",
) -> nn.Module:
    """A frozen copy of ``model`` as it was before training, on the same device.

    init, lora, dtype: what ``load`` made the model from. begun: training has changed the model,
    so that its first weights are read from ``init`` again. Frozen weights are shared.
    """
    same = copy_of(model)
    if begun:
        same.load_state_dict(load(init, lora, dtype)[0].state_dict())
    return same.eval().requires_grad_(False)


def merged(model: nn.Module) -> nn.Module:
    """``model`` with its adapters merged into its weights, all of which may learn."""
    if not _is_peft(model):
        return model
    return copy.deepcopy(model).merge_and_unload().requires_grad_(True)


@torch.no_grad()
def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of all weights as a checkpoint without adapters names them, tied weights once.
    Adapters are merged into copies, one layer at a time."""
    whole = model.get_base_model() if _is_peft(model) else model
    yield from _plain(whole, "", set())


def _plain(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(module, BaseTunerLayer):
        merged = copy.deepcopy(module)
        merged.merge()
        for name, parameter in merged.get_base_layer().named_parameters():
            yield prefix + name, parameter.detach()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield prefix + name, parameter.detach()
    for name, child in module.named_children():
        yield from _plain(child, f"{prefix}{name}.", seen)


def bare_backbone(config: dict[str, Any]) -> nn.Module:
    """A backbone with random weights and no head, from what ``config.to_diff_dict()`` returned.

    Raises KeyError, TypeError or ValueError if that is no configuration.
    """
    from transformers import AutoConfig, AutoModel

    described = AutoConfig.for_model(**config)
    embedded = config_of(described.to_dict())
    return Backbone(embedded) if embedded else AutoModel.from_config(described)


def character_tokenizer(texts: Iterable[str] = ()) -> Any:
    """A token a character: printable ASCII, the line's end, and what else ``texts`` hold."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    more = sorted({char for text in texts for char in text} - set(_PLAIN))
    words = [PAD, EOS, UNKNOWN, *_PLAIN, *more]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN,
        chat_template=TEMPLATE, padding_side="left", model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False)


def shape_of(dial: str, name: str = "net") -> tuple[int, int]:
    """(layers, width) of the setting ``name``, such as "3x96"; UserError for what is none."""
    found = re.fullmatch(r"(\d{1,3})x(\d{1,5})", dial)
    layers, width = (int(part) for part in found.groups()) if found else (0, 0)
    if not layers or not width or width % HEAD:
        raise UserError(f"{name}={dial}: LAYERSxWIDTH wanted, the width a multiple of {HEAD}, "
                        "for example 3x96")
    return layers, width


def small_model(dial: str, tokenizer: Any, seed: int) -> Transformer:
    """The embedded model of size ``dial`` "LAYERSxWIDTH", such as "3x96", with random weights.

    Raises UserError for another dial.
    """
    layers, width = shape_of(dial)
    config = TransformerConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        intermediate_size=-(-8 * width // 3 // 32) * 32, num_attention_heads=width // HEAD,
        max_position_embeddings=POSITIONS, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, initializer_range=width**-0.5 / 2)
    return seeded(seed, lambda: Transformer(config))


def must_be_there(name: str) -> None:
    """Raises UserError, in one line, where ``name`` is no folder with a model in safetensors and no
    hub id that can be reached; no weights are loaded."""
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
    _load("tokenizer", name, _tokenizer)


def load(name: str | Path, lora: Lora | None = None, dtype: str = "float32") -> tuple[Any, Any]:
    """(causal language model, its tokenizer) from a folder or a hub id; on the CPU.

    Where the folder holds an adapter (``adapter_config.json``), the model it belongs to is loaded
    as well, from the absolute path in that file. Raises UserError in one line if there is no
    model, no safetensors file, or no network.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    name = str(Path(name).resolve() if Path(name).is_dir() else name)
    if Path(name).is_dir():
        inside = {path.name for path in Path(name).iterdir()}
        must_be_as_saved(Path(name), inside - NOT_LOADED)
    tokenizer = _load("tokenizer", name, _tokenizer)
    if _is_adapter(name):
        return _load("adapter", name, _adapted, dtype), tokenizer
    if lora:
        return adapt(_load("model", name, _given, dtype), lora), tokenizer
    return _load("model", name, _causal, dtype), tokenizer


def reads(name: str) -> tuple[Any, int | None]:
    """(tokenizer of a model, how many tokens the model sees, None where it does not say); no
    weights are loaded. Raises UserError like ``load``."""
    from transformers import AutoConfig

    name = str(Path(name).resolve() if Path(name).is_dir() else name)
    tokenizer = _load("tokenizer", name, _tokenizer)
    config = _load("config", base_of(name), AutoConfig.from_pretrained)
    most = config.to_dict().get("max_position_embeddings")
    return tokenizer, most if isinstance(most, int) else None


def must_attend(config: Any, name: str) -> None:
    """Raises UserError for a model with layers that are no attention (linear, state-space,
    convolution): they carry a state from token to token, from which no single rows can be taken, as
    generation does with those that have ended and training with prompts read once."""
    from transformers import AutoModelForCausalLM

    kinds = set(config.to_dict().get("layer_types") or ())
    others = kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    classes = AutoModelForCausalLM._model_mapping
    if others or (type(config) in classes and classes[type(config)]._is_stateful):
        what = ", ".join(sorted(others)) or "state"
        raise UserError(f"{name}: a {config.model_type} model has layers of {what}, which cannot "
                        "be trained here; take one with attention in every layer, such as Llama, "
                        "Qwen2, Qwen3, Mistral, Gemma or GPT-2")


def base_of(name: str) -> str:
    """The folder or hub id of the model under an adapter; of another model its own."""
    from peft import PeftConfig

    if not _is_adapter(name):
        return name
    return str(PeftConfig.from_pretrained(name).base_model_name_or_path)


def adapt(model: nn.Module, lora: Lora) -> nn.Module:
    """``model`` with LoRA adapters on all its linear layers but the head; only they learn."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none",
                        target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
        return get_peft_model(model, config)


def save(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Save both into ``folder`` in Hugging Face's form: safetensors and JSON."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer.save_pretrained(folder)
    if not isinstance(model, Transformer):
        model.save_pretrained(folder)
        return
    described = {**model.config.to_diff_dict(),
                 "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    save_file({name: p.detach().cpu().contiguous() for name, p in model.named_parameters()},
              folder / MODEL, metadata={"format": "pt"})


def render(tokenizer: Any, question: str) -> list[int]:
    """Tokens of a prompt: the tokenizer's chat template, or the question and a line's end."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                             add_generation_prompt=True, tokenize=False)
        if text.rstrip().endswith(OPENED):  # it is the model's to open, as all formats have it
            text = text[: text.rindex(OPENED)]
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(question + "\n")["input_ids"])


def written(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Rows of tokens as text, without those that begin, end, pad or stand for the unknown. Other
    special tokens stay: a format's marks, such as <think>, may be some."""
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


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(tokens int64 [n, P], mask bool [n, P]): every row ends in the last column."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row):] = torch.tensor(list(row), dtype=torch.int64)
        mask[i, width - len(row):] = True
    return tokens, mask


def end_tokens(model: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion, the tokenizer's own first."""
    config = getattr(model, "generation_config", None)
    more = getattr(config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def _is_adapter(name: str) -> bool:
    return (Path(name) / "adapter_config.json").is_file()


def _is_peft(model: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-text token; choose another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def _causal(name: str, dtype: str) -> nn.Module:
    """The embedded model, where the folder ``name`` holds one, or Hugging Face's."""
    from transformers import AutoConfig

    weights = Path(name) / MODEL
    described = AutoConfig.from_pretrained(name, trust_remote_code=False)
    config = config_of(described.to_dict()) if weights.is_file() else None
    if config is None:
        return _given(name, dtype)
    with torch.device("meta"):  # no random weights
        model = Transformer(config)
    model.load_state_dict(load_file(weights), assign=True)
    return model.to(getattr(torch, dtype)).eval()


def _given(name: str, dtype: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    must_attend(AutoConfig.from_pretrained(name, trust_remote_code=False), name)
    return AutoModelForCausalLM.from_pretrained(
        name, use_safetensors=True, trust_remote_code=False, dtype=getattr(torch, dtype))


def _adapted(name: str, dtype: str) -> nn.Module:
    from peft import PeftModel

    under = base_of(name)
    if Path(under).is_absolute() and not Path(under).is_dir():
        raise UserError(f"{name}: its adapter is for the model in {under}, which is gone; put it, "
                        "or a link to it, there, or its folder into adapter_config.json")
    if not (Path(name) / "adapter_model.safetensors").is_file():  # peft would take a pickle
        raise UserError(f"--model {name}: adapter_model.safetensors is not in it; save the adapter "
                        "as safetensors")
    return PeftModel.from_pretrained(_given(under, dtype), name, is_trainable=True)


def _load(what: str, name: str, loader: Any, *arguments: Any) -> Any:
    try:
        return loader(name, *arguments)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--model {name}: no {what} could be loaded from this folder or hub id "
                        f"({type(error).__name__}: {reason}); give a folder that save_pretrained "
                        "wrote (safetensors), or a hub id with the network there") from None
