"""What stands between two turns of a model, as tokens.

A model's own tokens are kept as it wrote them: they are never read as text and made into tokens
again. What the chat template puts between the end of its turn and the beginning of its next one is
found by writing the conversation with a mark in place of its last turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.llm.models import OPENED

MARK = "\ue000the last turn\ue001"  #: of private characters, which no template has
Messages = Sequence[Mapping[str, str]]


def between_turns(
    tokenizer: Any, before: Messages, said: Messages, template: Mapping[str, Any], last: int
) -> list[int]:
    """The tokens from the end of the model's turn to the beginning of its next one.

    before: the conversation up to that turn. said: what the environment answers to it. last: the
    turn's last token; where it is the one that the template ends turns with, it is not repeated.
    Raises UserError where the template refuses the messages or leaves turns out.
    """
    if not tokenizer.chat_template:
        tail = "\n" + "".join(f"{m['content']}\n" for m in said)
    else:
        messages = [*before, {"role": "assistant", "content": MARK}, *said]
        try:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True,
                                                 tokenize=False, **template)
        except Exception as error:  # a template's own words
            raise UserError("the model's chat template refuses the environment's messages "
                            f"({clip(str(error), 160)}); give them roles that it knows") from None
        _, found, tail = text.rpartition(MARK)
        if not found:
            raise UserError("the model's chat template leaves out the model's own turns: it is for "
                            "one turn only; take another model, or an environment of one turn")
        if tail.rstrip().endswith(OPENED):  # in all formats the model opens it
            tail = tail[: tail.rindex(OPENED)]
    tokens = list(tokenizer(tail, add_special_tokens=False)["input_ids"])
    return tokens[1:] if tokens and tokens[0] == last else tokens
