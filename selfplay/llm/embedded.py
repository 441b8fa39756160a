"""The embedded model and its tokenizers of characters, words and pieces, made from nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from selfplay.common.errors import UserError
from selfplay.models import seeded
from selfplay.models.transformer import Transformer, TransformerConfig

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
HEAD = 32  #: width of an attention head
POSITIONS = 1024  #: tokens that the model can see
#: A conversation is one turn: the question and a line's end.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ '\\n' }}"

_PLAIN = "".join(map(chr, range(32, 127))) + "\n"


def character_tokenizer(texts: Iterable[str] = ()) -> Any:
    """A tokenizer with a token for each character: printable ASCII, the line's end, and all other
    characters of ``texts``."""
    from tokenizers import Regex, decoders, models, pre_tokenizers

    return _tokenizer_of(models.WordLevel(_ids_of(_characters(texts)), UNKNOWN),
                    pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse())


def piece_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A tokenizer of about ``size`` pieces that fit ``texts``: its characters, and those pairs of
    pieces that are the most frequent in them. Digits stay alone, so that numbers are read alike."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    splits = pre_tokenizers.Split(Regex(r"\d| ?[^\W\d]+|\s|[^\w\s]|_"), "isolated")
    learnt = Tokenizer(models.BPE(unk_token=UNKNOWN))
    learnt.pre_tokenizer = splits
    known = _characters(texts)
    learnt.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=max(size, len(known) + 3), special_tokens=[PAD, EOS, UNKNOWN],
        initial_alphabet=known, show_progress=False))
    return _tokenizer_of(learnt.model, splits, decoders.Fuse())


def number_tokenizer(texts: Iterable[str] = ()) -> Any:
    """``character_tokenizer`` with a token for each number below 100 as well; of longer numbers
    each two digits from the left are one."""
    from tokenizers import Regex, decoders, models, pre_tokenizers

    known = dict.fromkeys([*_characters(texts), *map(str, range(100))])
    return _tokenizer_of(models.WordLevel(_ids_of(known), UNKNOWN),
                    pre_tokenizers.Split(Regex(r"\d{1,2}|[\s\S]"), "isolated"), decoders.Fuse())


def word_tokenizer(words: Iterable[str]) -> Any:
    """A tokenizer with a token for each of ``words``, which spaces and lines' ends part; texts come
    back with a space between two words."""
    from tokenizers import models, pre_tokenizers

    return _tokenizer_of(models.WordLevel(_ids_of(words), UNKNOWN),
                         pre_tokenizers.WhitespaceSplit())


def _characters(texts: Iterable[str]) -> list[str]:
    return [*_PLAIN, *sorted({char for text in texts for char in text} - set(_PLAIN))]


def _ids_of(words: Iterable[str]) -> dict[str, int]:
    return {word: i for i, word in enumerate([PAD, EOS, UNKNOWN, *words])}


def _tokenizer_of(model: Any, splits: Any, joins: Any = None) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splits
    if joins is not None:
        tokenizer.decoder = joins
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN,
        chat_template=TEMPLATE, padding_side="left", model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False)


def shape_of(dial: str, name: str = "net") -> tuple[int, int]:
    """(layers, width) of the setting ``name``, such as "3x96". Raises UserError for other texts."""
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
    made = seeded(seed, lambda: Transformer(config))
    assert isinstance(made, Transformer)
    return made
