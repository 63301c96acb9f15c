"""What stands between the runs and the base model: a forward and backward pass over many runs' documents at once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from engine.stream import Part


class Sums(NamedTuple):
    """Over the supervised tokens of one part: summed loss in nats, and how often the likeliest token was right."""

    loss: float
    correct: int


class Passed(NamedTuple):
    """What a pass saw: one `Sums` a part, in the parts' order.

    computed_tokens is what the linear layers multiplied: the parts' tokens, and padding where the path needs any.
    """

    sums: list[Sums]
    computed_tokens: int


class LinearShape(NamedTuple):
    """A linear layer of the base that a LoRA adapter may sit on."""

    out_features: int
    in_features: int
    # transformers' Conv1D (GPT-2) keeps its weight transposed; PEFT's configuration must say so.
    fan_in_fan_out: bool = False


class Path(Protocol):
    """One rank's way of computing on the frozen base. A run alone is a pass with one part.

    Nothing of one part reaches another's numbers but through the rounding of products over more rows.
    """

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def linears(self) -> Mapping[str, LinearShape]:
        """The layers LoRA may adapt, by transformers' module names, in the model's order; without the output head."""

    def weight(self, linear: str) -> torch.Tensor:
        """A layer's frozen weight in fp32, [out_features, in_features] whatever its layout."""

    def flops(self, tokens: int, supervised_tokens: int) -> float:
        """Floating-point operations a training pass needs at least.

        Two a weight for the forward and two for the gradient of the inputs, over all linear layers for every token and
        over the output head for supervised ones; attention and the adapters themselves are not counted.
        """

    def activation_bytes(self, tokens: int, longest_row_tokens: int) -> int:
        """An upper estimate of what a training pass over so many tokens holds besides weights."""

    def gradients(self, parts: Sequence[Part]) -> Passed:
        """Forward and backward; adds each part's scaled gradient to its adapter's `grads`."""

    def losses(self, parts: Sequence[Part]) -> Passed:
        """Forward only, without dropout."""
