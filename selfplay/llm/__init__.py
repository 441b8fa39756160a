"""Language models on the same core: makes text look like a game. Adds no loss.

``tasks`` asks, ``generate`` answers, ``rewards`` judges, ``policy`` is what learns, ``sft`` and
``run`` are how; ``models`` brings the nets of Hugging Face.
"""
