"""How long to train on rows: the settings of ``plateau``."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.common.limits import Amount, Count, Positive, Share, Whole


@dataclass(frozen=True)
class PlateauConfig:
    """Training on rows until the held-out curve is flat."""

    batch_size: Count = 256  #: rows in a batch
    learning_rate: Positive = 2e-3  #: of AdamW, at the start
    weight_decay: Amount = 1e-2  #: of AdamW
    evaluate_every: Count = 200  #: steps between two evaluations on held-out rows
    gain: Share = 0.005  #: share of the held-out loss to be gained in ``patience`` evaluations
    patience: Count = 4  #: evaluations without that gain before the learning rate drops
    drops: Whole = 2  #: drops (each to 0.3 of the rate) before the curve counts as flat
    max_steps: Count = 100_000  #: most steps, flat or not
