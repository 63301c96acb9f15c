"""The elementwise work of a layer: what the native kernels and the torch reference both provide.

Every function writes into tensors it is given and allocates nothing worth mentioning. Tensors are contiguous. Those
marked "low" are in the number format of the products, all others in fp32.

Shapes: T tokens, D width, F inner width, H query heads, K key heads, W head width, S slots, L a bucket's length,
R supervised tokens, V vocabulary, Q = (H + 2 K) W.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.decoder.layout import Layout


@dataclass(frozen=True)
class HeadRules:
    """How the heads of one layer are made of its queries and keys. The norms are None where there are none."""

    heads: int
    key_heads: int
    width: int
    cos_PF: torch.Tensor
    sin_PF: torch.Tensor
    query_norm_W: torch.Tensor | None
    key_norm_W: torch.Tensor | None
    epsilon: float


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values by bucket; low. A bucket's part is [documents, heads, length, width]."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Normed:
    """What a norm makes: the new residual, its rows normed (low), and the factor 1 / rms of every row."""

    residual_TD: torch.Tensor
    x_TD: torch.Tensor
    scale_T: torch.Tensor


class Kernels(Protocol):
    """One number format on one kind of device."""

    def add_norm(
        self, h_TD: torch.Tensor, y_TD: torch.Tensor | None, weight_D: torch.Tensor, epsilon: float, *, out: Normed
    ) -> None:
        """out.residual = h + y, and its RMSNorm. Without y the residual is h, and out.residual_TD is not written."""

    def norm_backward(
        self, dx_TD: torch.Tensor, at: Normed, weight_D: torch.Tensor, dh_TD: torch.Tensor, *, dh_low_TD: torch.Tensor
    ) -> None:
        """Add to dh the gradient through the norm, round it to dh_low, and make at.x_TD once more."""

    def swiglu(self, gate_up_T2F: torch.Tensor, *, out_TF: torch.Tensor) -> None:
        """Write silu(gate) * up."""

    def swiglu_backward(self, gate_up_T2F: torch.Tensor, da_TF: torch.Tensor) -> None:
        """In place: gate and up become their gradients, and da the activation itself."""

    def split_heads(self, qkv_TQ: torch.Tensor, layout: Layout, rules: HeadRules, *, out: Heads) -> None:
        """Norm and rotate queries and keys, and lay them and the values into buckets; padding is zero."""

    def merge_heads(
        self, gradient: Heads, qkv_TQ: torch.Tensor | None, layout: Layout, rules: HeadRules, *, out_TQ: torch.Tensor
    ) -> None:
        """The gradient of what split_heads read; qkv_TQ is that itself, needed where the rules have norms."""

    def tokens_to_heads(self, tokens_THW: torch.Tensor, layout: Layout, *, out: torch.Tensor) -> None:
        """Lay rows of [heads, width] a token into buckets; padding is zero."""

    def heads_to_tokens(self, heads: torch.Tensor, layout: Layout, *, out_THW: torch.Tensor) -> None:
        """The way back; padding is dropped."""

    def causal_softmax(self, scores_LL: torch.Tensor, scale: float) -> None:
        """In place, in every L x L of [.., G L, L]: probabilities of scale * scores, zero above the diagonal."""

    def causal_softmax_backward(self, probabilities_LL: torch.Tensor, gradient_LL: torch.Tensor, scale: float) -> None:
        """In place of the probabilities' gradient, that of the scores."""

    def cross_entropy(
        self,
        logits_RV: torch.Tensor,
        targets_R: torch.Tensor,
        sums_R: torch.Tensor | None,
        *,
        losses_R: torch.Tensor,
        correct_R: torch.Tensor,
    ) -> None:
        """Each row's loss in nats, and 1 where the target is the first of the likeliest tokens, else 0 (int64).

        Where sums_R is given, it becomes the sum of the powers e^(logit - largest), and the logits become the powers,
        less the sum at the target: times weight / sum, that is the gradient of the weighted loss. Else they are lost.
        """
