"""Language models on the same core: text looks like a game. Adds no loss.

``tasks`` asks, ``generate`` answers, ``rewards`` judges, ``policy`` is what learns, ``sft``, ``rl``
and ``reward_model`` are how; ``recipes`` has the stages of a run, ``folder`` where they lie;
``models`` brings Hugging Face's nets.
"""
