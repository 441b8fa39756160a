"""Language models on the same core: text looks like a game. Adds no loss.

``tasks/`` ask, ``generate`` answers, ``rewards`` judges, ``judges/`` runs the user's own functions,
``envs/`` talks back; ``policy`` is what learns, ``sft``, ``rl`` and ``reward_model`` are how;
``recipes`` has a run's stages, ``folder`` where they lie; ``models`` brings Hugging Face's nets,
``embedded`` makes a small one, and ``given/`` uses models as they are.
"""
