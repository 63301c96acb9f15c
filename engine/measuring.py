"""The loss over held-out rows by transformers' own forward: a second implementation looks at what training exported.

Rows are padded on the right, so no attention mask is needed: a real token never attends to what follows it.
Shapes: B rows, T tokens, R supervised tokens, V vocabulary, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from engine.base_model import BaseModel
from engine.batches import share_of
from engine.distributed import Ranks
from engine.path import Sums
from engine.step import MEASURING_FACTOR, Measure, mean
from engine.tokenise import TokenisedRow

# Any token will do: it stands after the row's end, where causal attention never looks and nothing is supervised.
PADDING = 0


@dataclass(frozen=True)
class PaddedBatch:
    """What goes through the network at once.

    selected_R are the places in the flattened ids_BT whose next token is supervised, and targets_R those tokens.
    """

    ids_BT: torch.Tensor
    selected_R: torch.Tensor
    targets_R: torch.Tensor


def measure_rows(
    network: nn.Module, base: BaseModel, rows: Sequence[TokenisedRow], *, ranks: Ranks, token_budget: int
) -> Measure:
    """The mean loss over rows. Collective: each rank takes its share."""
    mine = share_of(rows, ranks.rank, ranks.world_size)
    loss, correct = 0.0, 0
    with torch.inference_mode():
        for group in padded_groups(mine, MEASURING_FACTOR * token_budget):
            seen = _sums(network, base, pad(group, base.device))
            loss, correct = loss + seen.loss, correct + seen.correct
    loss, right = ranks.total(loss, correct)
    return mean(Sums(loss, int(right)), sum(row.supervised_tokens for row in rows))


def _sums(network: nn.Module, base: BaseModel, batch: PaddedBatch) -> Sums:
    with base.multiplying(), only_at(base.head, batch.selected_R):
        logits_RV = network(input_ids=batch.ids_BT, use_cache=False).logits.float()
    loss = functional.cross_entropy(logits_RV, batch.targets_R, reduction="sum")
    return Sums(loss.item(), int((logits_RV.argmax(-1) == batch.targets_R).sum()))


def padded_groups(rows: Sequence[TokenisedRow], max_tokens: int) -> list[list[TokenisedRow]]:
    """Rows of like length together, so many that padded they keep to the budget. A row may exceed it alone."""
    groups: list[list[TokenisedRow]] = []
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.line)):
        if groups and len(groups[-1][0].ids) * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(rows: Sequence[TokenisedRow], device: torch.device) -> PaddedBatch:
    """Lay rows below each other."""
    length = max(len(row.ids) for row in rows)
    ids_BT = torch.full((len(rows), length), PADDING)
    selected, targets = [], []
    for number, row in enumerate(rows):
        ids_BT[number, : len(row.ids)] = torch.tensor(row.ids)
        for place, wanted in enumerate(row.supervised):
            if wanted:
                selected.append(number * length + place - 1)
                targets.append(row.ids[place])
    selected_R, targets_R = torch.tensor(selected, dtype=torch.long), torch.tensor(targets, dtype=torch.long)
    return PaddedBatch(ids_BT.to(device), selected_R.to(device), targets_R.to(device))


@contextmanager
def only_at(head: nn.Module, selected_R: torch.Tensor) -> Iterator[None]:
    """Within it, the output head sees hidden states at the selected places of the flattened batch only.

    The head is the widest product of a small model, and most of its rows would be thrown away. Choosing rows before it
    leaves every model's own forward as it is, with its scaling or soft-capping of logits after the head.
    """

    def select(_: nn.Module, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (hidden_BTD,) = hidden
        return (hidden_BTD.flatten(0, 1)[selected_R],)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
