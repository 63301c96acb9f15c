"""The loss: nats over supervised tokens, summed. Whoever calls divides by the count of all ranks.

Shapes: B rows, T tokens, R supervised tokens, V vocabulary, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from engine.base_model import BaseModel
from engine.batches import MicroBatch


class LossSum(NamedTuple):
    """Over the supervised tokens of a micro-batch: the summed loss, and how often the likeliest token was right."""

    loss: torch.Tensor
    correct: torch.Tensor


def loss_sum(network: nn.Module, base: BaseModel, batch: MicroBatch) -> LossSum:
    """Run a micro-batch through the network, which is the base with whatever adapter sits on it."""
    with base.multiplying(), only_at(base.head, batch.selected_R):
        logits_RV = network(input_ids=batch.ids_BT, use_cache=False).logits.float()
    loss = functional.cross_entropy(logits_RV, batch.targets_R, reduction="sum")
    correct = (logits_RV.detach().argmax(-1) == batch.targets_R).sum()
    return LossSum(loss, correct)


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
