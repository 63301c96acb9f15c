"""Rows of nobody, to exercise a path: random tokens, of lengths that are usual among fine-tuning rows."""

from collections.abc import Sequence

import numpy as np

from domain.runs import LoraMethod, Optimiser
from engine import inits
from engine.optimiser import AdamW, clip_gradient
from engine.path import Passed
from engine.paths import Paths
from engine.stream import Part
from engine.tokenise import TokenisedRow

METHOD, SETTINGS = LoraMethod(lora_rank=8), Optimiser()

# Every base model's vocabulary has at least so many.
VOCABULARY = 256

# Instructions and short answers: a log-normal distribution with a median of 60 and a mean of 75 tokens.
MEDIAN_TOKENS, SPREAD, LONGEST_TOKENS = 60.0, 0.67, 256
SUPERVISED_SHARE = 0.7


def synthetic_rows(tokens: int) -> list[TokenisedRow]:
    """Rows with so many tokens together, the same every time."""
    random = np.random.default_rng(0)
    rows: list[TokenisedRow] = []
    while tokens:
        length = min(int(random.lognormal(np.log(MEDIAN_TOKENS), SPREAD)) + 2, LONGEST_TOKENS, tokens)
        ids: list[int] = random.integers(VOCABULARY, size=length).tolist()
        prompt = max(1, round(length * (1 - SUPERVISED_SHARE)))
        rows.append(TokenisedRow(len(rows), tuple(ids), tuple(place >= prompt for place in range(length))))
        tokens -= length
    return rows


class SyntheticRun:
    """An adapter of nobody on one rank, trained in single passes."""

    def __init__(self, paths: Paths) -> None:
        """Load the base model if need be. Raises RunFailed."""
        self.path = paths.load(paths.choose(METHOD, LONGEST_TOKENS))
        self.adapter = inits.initial(METHOD, self.path, seed=0, base_model=paths.folder, rows=())
        self._optimiser = AdamW(self.adapter, SETTINGS)

    def step(self, rows: Sequence[TokenisedRow]) -> Passed:
        """Train on the rows in one pass."""
        supervised = sum(row.supervised_tokens for row in rows)
        passed = self.path.gradients([Part(self.adapter, rows, scale=1 / supervised)])
        clip_gradient(self.adapter, SETTINGS.clip_norm)
        self._optimiser.step(SETTINGS.learning_rate)
        self.adapter.forget_gradient()
        return passed
