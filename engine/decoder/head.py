"""The output head and the loss, on supervised tokens only and a portion of them at a time.

Shapes: T tokens, R supervised tokens, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch

from engine.decoder.arena import Arena
from engine.decoder.kernels import Kernels, Normed
from engine.decoder.weights import DecoderWeights

# The logits that exist at one time, in bytes: products want some hundred rows, memory wants few.
LOGITS_BYTES = 2**25


@dataclass(frozen=True)
class Judged:
    """Loss in nats and hit (1 or 0) of every supervised token."""

    losses_R: torch.Tensor
    correct_R: torch.Tensor


class Head:
    """The final norm, the head and the cross-entropy of one pass."""

    def __init__(self, weights: DecoderWeights, epsilon: float, kernels: Kernels, arena: Arena) -> None:
        self._weights, self._epsilon, self._kernels, self._arena = weights, epsilon, kernels, arena

    def normed(self, h_RD: torch.Tensor) -> Normed:
        """The final norm of the residual stream at supervised places."""
        low = self._weights.head_VD.dtype
        normed = Normed(
            h_RD,
            self._arena.take("head_x", 0, tuple(h_RD.shape), low),
            self._arena.take("head_scale", 0, (len(h_RD),), torch.float32),
        )
        self._kernels.add_norm(h_RD, None, self._weights.final_norm_D, self._epsilon, out=normed)
        return normed

    def judge(
        self, normed: Normed, targets_R: torch.Tensor, weights_R: torch.Tensor | None
    ) -> tuple[Judged, torch.Tensor | None]:
        """Each token's loss; and, where there are weights, the gradient of their weighted sum into normed.x."""
        x_RD, device = normed.x_TD, targets_R.device
        rows, vocabulary = len(targets_R), len(self._weights.head_VD)
        judged = Judged(torch.empty(rows, device=device), torch.empty(rows, dtype=torch.long, device=device))
        dx_RD = None if weights_R is None else self._arena.take("d_head_x", 0, tuple(x_RD.shape), x_RD.dtype)
        portion = _even_portion(rows, most=LOGITS_BYTES // (vocabulary * x_RD.itemsize))
        sums_R = None if weights_R is None else torch.empty(rows, device=device)
        room = self._arena.take("logits", 0, (portion, vocabulary), x_RD.dtype)
        for first in range(0, rows, portion):
            some = slice(first, min(first + portion, rows))
            logits_RV = torch.mm(x_RD[some], self._weights.head_DV, out=room[: some.stop - first])
            self._kernels.cross_entropy(
                logits_RV,
                targets_R[some],
                None if sums_R is None else sums_R[some],
                losses_R=judged.losses_R[some],
                correct_R=judged.correct_R[some],
            )
            if dx_RD is not None:
                torch.mm(logits_RV, self._weights.head_VD, out=dx_RD[some])
        if dx_RD is not None and sums_R is not None and weights_R is not None:
            dx_RD *= (weights_R / sums_R)[:, None]
        return judged, dx_RD

    def backward(self, dx_RD: torch.Tensor, normed: Normed, selected_R: torch.Tensor, dh_TD: torch.Tensor) -> None:
        """Write the gradient of the residual stream: zero wherever nothing was supervised."""
        dh_RD = torch.zeros_like(normed.residual_TD)
        rounded_RD = torch.empty_like(dx_RD)
        self._kernels.norm_backward(dx_RD, normed, self._weights.final_norm_D, dh_RD, dh_low_TD=rounded_RD)
        dh_TD.zero_().index_copy_(0, selected_R, dh_RD)


def _even_portion(rows: int, *, most: int) -> int:
    """Rows of a portion, at most so many: the fewest portions, of like size, for a product of few rows is slow."""
    portions = -(-rows // max(1, most))
    return -(-rows // portions)
