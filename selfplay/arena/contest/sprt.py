"""Sequential probability ratio tests: a match that ends when it is decided.

H0 says that A is ``elo0`` above B, H1 that it is ``elo1`` above. The test is Wald's (1945) with the
generalised likelihood ratio: of each hypothesis the likeliest distribution of outcomes is taken
(Li, Liu, Ying, "Generalized sequential probability ratio test for separate families of hypotheses",
2014). It ends at log(beta / (1 - alpha)) with H0, at log((1 - beta) / alpha) with H1; alpha and
beta are the rates of wrong ends where A is exactly at ``elo0`` or ``elo1``.

An outcome is a game (loss, draw, win: trinomial) or a pair of games from one opening with colours
swapped (0 to 4 half points: pentanomial). Games of a pair depend on each other, mostly so that
their sum varies less: pairs need fewer games. Elo is logistic (a score of 1 / (1 + 10^(-elo/400)))
or normalized (the mean above 1/2 in standard deviations of a game, times 800 / ln 10), which does
not depend on how many games are draws.

Formulas: M. Van den Bergh, "Comments on normalized Elo" (normalized_elo_practical.pdf), equations
1.2, 1.3 and 4.9. What is 0 counts as 0.001, as in fishtest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.arena.records import GameRecord
from selfplay.common.errors import UserError
from selfplay.common.words import one_of

NOTHING = 1e-3  #: what an outcome counts that has not been seen
ELO = 800 / math.log(10)  #: normalized Elo of one standard deviation
MODELS = ("logistic", "normalized")
OUTCOMES = {"trinomial": 3, "pentanomial": 5}
H0, H1 = "H0", "H1"
MOST = 4000  #: Elo
NARROW = 1e-7  #: the smallest standard deviation that is told from none
NEAR, HALVINGS = 1e-3, 60  #: of ``_normalized``
FIRST = 8  #: games under way before any has been looked at
FORM = "ELO0,ELO1 wanted, such as 0,20, and then as one likes: trinomial, normalized"

Floats = NDArray[np.float64]


class Sprt(NamedTuple):
    """A test of ``elo0`` against ``elo1`` (see the module)."""

    elo0: float
    elo1: float
    alpha: float = 0.05
    beta: float = 0.05
    model: str = "logistic"
    outcomes: int = 5  #: 5 for pairs of games, 3 for games

    @property
    def bounds(self) -> tuple[float, float]:
        """The ratios at which H0 and H1 are accepted."""
        return math.log(self.beta / (1 - self.alpha)), math.log((1 - self.beta) / self.alpha)

    def llr(self, counts: ArrayLike) -> Floats:
        """The logarithm of the likelihood ratio [...] of outcomes counted in float [..., K], from
        the worst for A to the best."""
        seen = np.asarray(counts, np.float64)
        seen = np.where(seen == 0, NOTHING, seen)
        total = seen.sum(-1, keepdims=True)
        share = seen / total
        scores = np.linspace(0, 1, self.outcomes)
        if self.model == "logistic":
            one, other = (_likeliest(share, scores - 1 / (1 + 10 ** (-elo / 400)))
                          for elo in (self.elo0, self.elo1))
        else:
            games = self.outcomes // 2  # of an outcome
            one, other = (_normalized(share, scores, math.sqrt(games) * elo / ELO)
                          for elo in (self.elo0, self.elo1))
        return (seen * np.log(other / one)).sum(-1)

    def decision(self, llr: float) -> str:
        """H0, H1, or empty where the test goes on."""
        low, high = self.bounds
        return H1 if llr >= high else H0 if llr <= low else ""

    def __str__(self) -> str:
        kind = next(name for name, count in OUTCOMES.items() if count == self.outcomes)
        return f"{self.elo0:g} against {self.elo1:g} Elo ({self.model}, {kind})"


def parse_sprt(text: str, alpha: float = 0.05, beta: float = 0.05) -> Sprt:
    """The test of ``ELO0,ELO1`` with words for its model and its outcomes behind it.

    Raises UserError.
    """
    try:
        first, second, *words = (word.strip() for word in text.split(","))
        elo0, elo1 = float(first), float(second)
    except ValueError:
        raise UserError(f"--sprt {text}: {FORM}") from None
    if not (abs(elo0) < MOST and abs(elo1) < MOST):  # NaN neither
        raise UserError(f"--sprt {text}: ratings between -{MOST} and {MOST} wanted, as 0,20")
    if not elo0 < elo1:
        raise UserError(f"--sprt {text}: two ratings wanted, the lower first, as 0,20")
    if not (0 < alpha < 1 and 0 < beta < 1 and alpha + beta < 1):
        raise UserError(f"--alpha {alpha:g}, --beta {beta:g}: two rates wanted that add up to less "
                        "than 1, as 0.05")
    model, outcomes = MODELS[0], OUTCOMES["pentanomial"]
    for word in words:
        if word not in (*MODELS, *OUTCOMES):
            raise UserError(f"--sprt {text}: {word}: {one_of([*MODELS, *OUTCOMES], word)}")
        model = word if word in MODELS else model
        outcomes = OUTCOMES.get(word, outcomes)
    return Sprt(elo0, elo1, alpha, beta, model, outcomes)


class Trial:
    """A test while its games come in, in whatever order they end.

    Games are looked at in the order of their numbers, and only once all before them are there: so
    short games count no more than long ones, and the decision depends neither on how many games
    are played at once nor on interruptions. Outcomes that repeat earlier ones move by move tell
    nothing new: the ratio is that of as many as are different.
    """

    def __init__(self, sprt: Sprt) -> None:
        self.sprt = sprt
        self.counts = np.zeros(sprt.outcomes)
        self.games = 0  #: that have been looked at
        self.llr = 0.0
        self.decision = ""  #: H0 or H1 once the test is over; games that come later do not count
        self._waiting: dict[int, GameRecord] = {}
        self._seen: set[tuple[tuple[int, ...], ...]] = set()

    def add(self, records: Iterable[GameRecord]) -> None:
        each = self.sprt.outcomes // 2  # games of an outcome
        self._waiting.update((record.index, record) for record in records)
        while not self.decision:
            numbers = range(self.games, self.games + each)
            if not all(number in self._waiting for number in numbers):
                return
            self._look([self._waiting.pop(number) for number in numbers])

    def _look(self, together: Sequence[GameRecord]) -> None:
        points = sum(1 + _sign(r.value if r.index % 2 == 0 else -r.value) for r in together)
        self.counts[points] += 1
        self.games += len(together)
        self._seen.add(tuple(record.actions for record in together))
        share = len(self._seen) * len(together) / self.games
        self.llr = float(self.sprt.llr(self.counts * share))
        self.decision = self.sprt.decision(self.llr)

    @property
    def share(self) -> float:
        """How far the ratio is on its way to the bound that it is nearer to, 0 to 1. Where one
        player is better the ratio drifts, so that this grows with the games."""
        low, high = self.sprt.bounds
        return min(max(self.llr / high, self.llr / low), 1.0)

    def in_flight(self) -> int:
        """How many games to have under way: at first few, then as many as have been looked at, so
        that a decision costs at most about twice the games that it needed."""
        return max(FIRST, self.games)

    def __str__(self) -> str:
        low, high = self.sprt.bounds
        return f"LLR {self.llr:.2f} ({low:.2f} to {high:.2f})"

    def summary(self) -> str:
        """What the test says, in a line."""
        if not self.decision:
            return f"SPRT of {self.sprt}: open after {self.games} games, {self}"
        elo = self.sprt.elo0 if self.decision == H0 else self.sprt.elo1
        return (f"SPRT of {self.sprt}: {self.decision} accepted after {self.games} games, {elo:g} "
                f"is nearer the truth; {self}")


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _likeliest(share: Floats, gap: Floats) -> Floats:
    """The likeliest distribution [..., K] in which ``gap`` [..., K] has the mean 0, where outcomes
    have the shares ``share`` [..., K]: share / (1 + x gap) with the x at which that holds.

    The mean falls with x, from one pole to the other; Newton's steps, halved where they leave what
    is still in question.
    """
    gap = np.broadcast_to(gap, share.shape)
    low, high = -1 / gap.max(-1, keepdims=True), -1 / gap.min(-1, keepdims=True)
    x = np.zeros_like(low)
    for _ in range(100):
        part = gap / (1 + x * gap)
        mean = (share * part).sum(-1, keepdims=True)
        low, high = np.where(mean > 0, x, low), np.where(mean > 0, high, x)
        step = mean / (share * part**2).sum(-1, keepdims=True)
        new = x + step
        new = np.where((new > low) & (new < high), new, (low + high) / 2)
        if np.abs(new - x).max(initial=0.0) < 1e-11:
            break
        x = new
    return share / (1 + x * gap)


def _normalized(share: Floats, scores: Floats, deviations: float) -> Floats:
    """The likeliest distribution [..., K] whose mean is so many of its standard deviations above
    1/2: one of a given mean again and again, of the scores as they lie around the last one's. The
    first has the mean that the standard deviation of ``share`` wants. Where none around the last
    one has what is wanted, the step goes half of the way there, and again half."""
    mean = (share * scores).sum(-1, keepdims=True)
    spread = np.sqrt(np.maximum((share * (scores - mean) ** 2).sum(-1, keepdims=True), 0.0))
    found = _likeliest(share, scores - np.clip(0.5 + deviations * spread, 0.01, 0.99))
    for _ in range(100):
        mean = (found * scores).sum(-1, keepdims=True)
        spread = np.sqrt((found * (scores - mean) ** 2).sum(-1, keepdims=True)).clip(NARROW)
        aim = np.full_like(mean, deviations)
        for _ in range(HALVINGS):
            gap = scores - 0.5 - aim * spread * (1 + ((scores - mean) / spread) ** 2) / 2
            low, high = gap.min(-1, keepdims=True), gap.max(-1, keepdims=True)
            beyond = (high < -NEAR * low) | (-low < NEAR * high)  # hardly a score on one side
            if not beyond.any():
                break
            aim = np.where(beyond, (aim + (mean - 0.5) / spread) / 2, aim)
        last, found = found, _likeliest(share, gap)
        if np.abs(found - last).max(initial=0.0) < 1e-9:
            break
    return found
