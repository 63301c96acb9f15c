"""A way of computing that computes nothing: for what only asks a path about itself, or about its failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from engine.path import LinearShape, Passed, Sums
from engine.stream import Part
from engine.tokenise import TokenisedRow


@dataclass
class FakePath:
    """Every supervised token costs one nat and pulls every weight towards its row's first token.

    A row that begins with the token `poison` makes the pass fail.
    """

    bytes_a_token: int = 0
    poison: int | None = None
    passes: list[list[int]] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    linears: Mapping[str, LinearShape] = field(default_factory=dict)

    def weight(self, linear: str) -> torch.Tensor:
        raise KeyError(linear)

    def flops(self, tokens: int, supervised_tokens: int) -> float:
        return 4.0 * tokens + 2.0 * supervised_tokens

    def activation_bytes(self, tokens: int, longest_row_tokens: int) -> int:
        assert longest_row_tokens <= tokens
        return tokens * self.bytes_a_token

    def gradients(self, parts: Sequence[Part]) -> Passed:
        self.passes.append([sum(len(row.ids) for row in part.rows) for part in parts])
        for part in parts:
            assert part.adapter is not None
            for row in part.rows:
                if row.ids[0] == self.poison:
                    raise RuntimeError("poisoned")
                part.adapter.grad_P += part.scale * row.supervised_tokens * row.ids[0]
        return self.losses(parts)

    def losses(self, parts: Sequence[Part]) -> Passed:
        sums = [Sums(float(_supervised(part.rows)), 0) for part in parts]
        return Passed(sums, sum(len(row.ids) for part in parts for row in part.rows))


def _supervised(rows: Sequence[TokenisedRow]) -> int:
    return sum(row.supervised_tokens for row in rows)
