"""One optimiser step over a global batch, and the loss over a set of rows; both over all ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from engine.base_model import BaseModel
from engine.batches import collate, portions, share_of
from engine.distributed import Ranks, without_sharing
from engine.failures import NonFiniteLoss
from engine.loss import loss_sum
from engine.optimiser import clip_gradients
from engine.tokenise import TokenisedRow

# Without gradients a portion keeps no activations, so it may be larger.
MEASURING_FACTOR = 4


class Measure(NamedTuple):
    """Over the supervised tokens of some rows, all ranks together: mean loss in nats, share guessed right."""

    loss: float
    token_accuracy: float
    supervised_tokens: int


class Stepped(NamedTuple):
    """What an optimiser step saw; the gradient's norm is that before clipping."""

    measure: Measure
    grad_norm: float


@dataclass(frozen=True)
class Step:
    """What a step works with on this rank. `network` is the base with its adapter, sharing gradients with the peers."""

    network: nn.Module
    base: BaseModel
    optimiser: torch.optim.Optimizer
    ranks: Ranks
    token_budget: int


def optimise(step: Step, batch: Sequence[TokenisedRow], *, clip_norm: float) -> Stepped:
    """Take one optimiser step on the mean loss per supervised token of the global batch.

    Collective: every rank must call it equally often, with the same batch, of which it takes its own share. Raises
    NonFiniteLoss on all ranks if any rank's loss or gradient is not finite; no weight is changed.
    """
    ranks = step.ranks
    supervised_tokens = sum(row.supervised_tokens for row in batch)
    mine = portions(share_of(batch, ranks.rank, ranks.world_size), step.token_budget)
    # DDP averages gradients over the ranks. The loss is a mean over all ranks' tokens, so its sum is wanted.
    scale = ranks.world_size / supervised_tokens
    step.optimiser.zero_grad(set_to_none=True)
    summed = correct = 0.0
    for portion in mine[:-1]:
        with without_sharing(step.network):
            loss, right = _backward(step, portion, scale)
        summed, correct = summed + loss, correct + right
    loss, right = _backward(step, mine[-1], scale)
    measure = _measure(ranks, summed + loss, correct + right, supervised_tokens)

    weights = [weight for group in step.optimiser.param_groups for weight in group["params"]]
    grad_norm = clip_gradients(weights, clip_norm)
    # Both come out of all-reduces, so every rank decides alike.
    if not (math.isfinite(measure.loss) and math.isfinite(grad_norm)):
        step.optimiser.zero_grad(set_to_none=True)
        raise NonFiniteLoss("The loss is no longer a finite number; a lower learning rate may help.")
    step.optimiser.step()
    return Stepped(measure, grad_norm)


def _backward(step: Step, portion: Sequence[TokenisedRow], scale: float) -> tuple[float, float]:
    loss, correct = loss_sum(step.network, step.base, collate(portion, step.base.device))
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.item(), correct.item()


def measure_loss(
    network: nn.Module, base: BaseModel, rows: Sequence[TokenisedRow], *, ranks: Ranks, token_budget: int
) -> Measure:
    """The mean loss over rows, without dropout. Collective.

    `network` is not DDP's wrapper: the ranks may run unequally often.
    """
    mine = portions(share_of(rows, ranks.rank, ranks.world_size), MEASURING_FACTOR * token_budget)
    summed = correct = 0.0
    trained = network.training
    network.eval()
    with torch.inference_mode():
        for portion in mine:
            loss, right = loss_sum(network, base, collate(portion, base.device))
            summed, correct = summed + loss.item(), correct + right.item()
    network.train(trained)
    return _measure(ranks, summed, correct, sum(row.supervised_tokens for row in rows))


def _measure(ranks: Ranks, loss: float, correct: float, supervised_tokens: int) -> Measure:
    loss, correct = ranks.total(loss, correct)
    return Measure(loss / supervised_tokens, correct / supervised_tokens, supervised_tokens)


def fix_reduction_order(network: nn.Module, base: BaseModel) -> None:
    """Run two empty steps, so that DDP has laid out its buckets for good. Collective.

    DDP orders its buckets by the first backward it sees and lays them out at the next forward. Where a weight lies in
    them decides in which order three or more ranks are added up, and a resumed run must add as the first one did.
    """
    for _ in range(2):
        loss_sum(network, base, collate([], base.device)).loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad(set_to_none=True)
