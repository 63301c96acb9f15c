"""One optimiser step of each of several runs, in one pass where they share one; and the loss over a set of rows."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.adapter import Adapter
from engine.batches import portions, share_of, tokens_of
from engine.distributed import Ranks
from engine.failures import NonFiniteLoss
from engine.optimiser import AdamW, LossScale, clip_gradient
from engine.path import Passed, Path, Sums
from engine.stream import Part, derive_seed
from engine.tokenise import TokenisedRow

# Without gradients a pass keeps no activations, so it may be larger.
MEASURING_FACTOR = 4


class Measure(NamedTuple):
    """Over the supervised tokens of some rows, all ranks together: mean loss in nats, share guessed right."""

    loss: float
    token_accuracy: float
    supervised_tokens: int


@dataclass
class Stepping:
    """One run's next step. `shared`: every rank holds the same adapter and takes a share of the rows."""

    adapter: Adapter
    optimiser: AdamW
    loss_scale: LossScale
    clip_norm: float
    batch: Sequence[TokenisedRow]
    learning_rate: float
    seed: int
    shared: bool

    @property
    def supervised_tokens(self) -> int:
        """Of the global batch."""
        return sum(row.supervised_tokens for row in self.batch)


class Stepped(NamedTuple):
    """How one run's step went: its figures, or why it cannot go on. grad_norm is that before clipping."""

    measure: Measure
    grad_norm: float
    failure: NonFiniteLoss | None = None


class Tick(NamedTuple):
    """What a rank did in one go: a result a run, in their order, and what its passes multiplied in how long."""

    stepped: list[Stepped]
    tokens: int
    supervised_tokens: int
    computed_tokens: int
    busy_s: float


def step_together(steppings: Sequence[Stepping], path: Path, *, ranks: Ranks, token_budget: int) -> Tick:
    """Take one optimiser step of every run on the mean loss per supervised token of its own global batch.

    Collective where runs are shared: every rank must call it equally often, with the same runs in the same order, of
    whose rows it takes its own share. A run whose loss or gradient is not finite gets a failure, on all its ranks
    alike, and keeps its weights; the others' steps do not depend on it.
    """
    started = time.monotonic()
    shares = [_share(stepping, ranks) for stepping in steppings]
    sums = [Sums(0.0, 0)] * len(steppings)
    computed = 0
    for number, parts in enumerate(_passes(shares, token_budget)):
        passed = path.gradients([_part(steppings[run], rows, ranks.rank, number) for run, rows in parts])
        computed += passed.computed_tokens
        for (run, _), seen in zip(parts, passed.sums, strict=True):
            sums[run] = Sums(sums[run].loss + seen.loss, sums[run].correct + seen.correct)
    busy_s = time.monotonic() - started
    sums = _over_ranks(steppings, sums, ranks)
    stepped = [_update(stepping, seen) for stepping, seen in zip(steppings, sums, strict=True)]
    supervised = sum(row.supervised_tokens for share in shares for row in share)
    return Tick(stepped, sum(tokens_of(share) for share in shares), supervised, computed, busy_s)


def _share(stepping: Stepping, ranks: Ranks) -> Sequence[TokenisedRow]:
    return share_of(stepping.batch, ranks.rank, ranks.world_size) if stepping.shared else stepping.batch


def _passes(
    shares: Sequence[Sequence[TokenisedRow]], token_budget: int
) -> list[list[tuple[int, Sequence[TokenisedRow]]]]:
    """Several runs make one pass, which the schedule has filled; a run alone as many as its rows need."""
    if len(shares) > 1:
        return [list(enumerate(shares))]
    return [[(0, portion)] for portion in portions(shares[0], token_budget)]


def _part(stepping: Stepping, rows: Sequence[TokenisedRow], rank: int, number: int) -> Part:
    return Part(
        adapter=stepping.adapter,
        rows=rows,
        scale=stepping.loss_scale.value / stepping.supervised_tokens,
        seed=derive_seed(stepping.seed, rank, number),
    )


def _over_ranks(steppings: Sequence[Stepping], sums: Sequence[Sums], ranks: Ranks) -> list[Sums]:
    """Add up what the ranks of shared runs saw: gradients in one all-reduce a run, figures in one for all."""
    if ranks.world_size == 1 or not steppings[0].shared:
        return list(sums)
    for stepping in steppings:
        ranks.add_up(stepping.adapter.grad_P)
    totals = ranks.total(*(number for seen in sums for number in seen))
    return [Sums(loss, int(correct)) for loss, correct in zip(totals[::2], totals[1::2], strict=True)]


def _update(stepping: Stepping, seen: Sums) -> Stepped:
    """Clip and step, or refuse to. The gradient is zero afterwards."""
    adapter, loss_scale = stepping.adapter, stepping.loss_scale
    measure = mean(seen, stepping.supervised_tokens)
    if loss_scale.value != 1.0:
        adapter.grad_P.div_(loss_scale.value)
    grad_norm = clip_gradient(adapter, stepping.clip_norm)
    failure = None
    if math.isfinite(measure.loss) and math.isfinite(grad_norm):
        stepping.optimiser.step(stepping.learning_rate)
        loss_scale.count()
    elif math.isfinite(measure.loss) and loss_scale.can_shrink:
        # Only the scaled gradient overflowed. This step is left out, and the run goes on.
        loss_scale.shrink()
        grad_norm = 0.0
    else:
        failure = NonFiniteLoss("The loss is no longer a finite number; a lower learning rate may help.")
    adapter.forget_gradient()
    return Stepped(measure, grad_norm, failure)


def measure_loss(
    path: Path, adapter: Adapter | None, rows: Sequence[TokenisedRow], *, shared: bool, ranks: Ranks, token_budget: int
) -> Measure:
    """The mean loss over rows, without dropout. Collective where the run is shared."""
    mine = share_of(rows, ranks.rank, ranks.world_size) if shared else rows
    loss, correct = 0.0, 0
    for portion in portions(mine, MEASURING_FACTOR * token_budget):
        passed: Passed = path.losses([Part(adapter, portion)])
        (seen,) = passed.sums
        loss, correct = loss + seen.loss, correct + seen.correct
    if shared:
        loss, right = ranks.total(loss, correct)
        correct = int(right)
    return mean(Sums(loss, correct), sum(row.supervised_tokens for row in rows))


def mean(seen: Sums, supervised_tokens: int) -> Measure:
    """Sums over rows with so many supervised tokens, as means."""
    return Measure(seen.loss / supervised_tokens, seen.correct / supervised_tokens, supervised_tokens)
