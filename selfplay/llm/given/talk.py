"""A conversation with any model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from selfplay.llm.folder import sampling_of
from selfplay.llm.given.measure import open_model
from selfplay.llm.models import chat_tokens, completion_texts
from selfplay.llm.tasks.task import template_of


def replies(
    name: str, temperature: float, device: str, assignments: Sequence[str]
) -> Generator[str, str, None]:
    """A generator that is sent what is said and yields what the model answers (at first nothing);
    it remembers the conversation. The arguments are those of ``measure.open_model``."""
    opened = open_model(name, device, assignments)
    sampling = replace(sampling_of(opened.config), temperature=temperature)
    template = dict(template_of(opened.config.data.template))
    system = opened.config.data.system
    talk = [{"role": "system", "content": system}] if system else []
    text, seed = "", 0
    while True:
        said = yield text
        talk.append({"role": "user", "content": said})
        samples = opened.generator([chat_tokens(opened.tokenizer, talk, template)], 1, sampling,
                                   seed)
        text = completion_texts(opened.tokenizer, samples.action, samples.mask, samples.ended,
                                sampling.stop)[0]
        talk.append({"role": "assistant", "content": text})
        seed += 1
