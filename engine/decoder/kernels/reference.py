"""The kernels in plain torch: what they are held against, and what computes where they cannot be had.

Shapes as in `interface`.
"""

import torch
from torch.nn import functional

from engine.decoder.kernels.interface import HeadRules, Heads, Normed
from engine.decoder.layout import Bucket, Layout


class ReferenceKernels:
    """Any number format on any device."""

    def add_norm(
        self, h_TD: torch.Tensor, y_TD: torch.Tensor | None, weight_D: torch.Tensor, epsilon: float, *, out: Normed
    ) -> None:
        """See `Kernels`."""
        if y_TD is not None:
            h_TD = torch.add(h_TD, y_TD, out=out.residual_TD)
        out.scale_T.copy_(torch.rsqrt(h_TD.square().mean(-1) + epsilon))
        out.x_TD.copy_(h_TD * out.scale_T[:, None] * weight_D)

    def norm_backward(
        self, dx_TD: torch.Tensor, at: Normed, weight_D: torch.Tensor, dh_TD: torch.Tensor, *, dh_low_TD: torch.Tensor
    ) -> None:
        """See `Kernels`."""
        dh_TD += _norm_gradient(dx_TD.float() * weight_D, at.residual_TD, at.scale_T[:, None])
        dh_low_TD.copy_(dh_TD)
        at.x_TD.copy_(at.residual_TD * at.scale_T[:, None] * weight_D)

    def swiglu(self, gate_up_T2F: torch.Tensor, *, out_TF: torch.Tensor) -> None:
        """See `Kernels`."""
        gate_TF, up_TF = gate_up_T2F.float().chunk(2, -1)
        out_TF.copy_(functional.silu(gate_TF) * up_TF)

    def swiglu_backward(self, gate_up_T2F: torch.Tensor, da_TF: torch.Tensor) -> None:
        """See `Kernels`."""
        gate_TF, up_TF = gate_up_T2F.float().chunk(2, -1)
        sigmoid_TF, gradient_TF = torch.sigmoid(gate_TF), da_TF.float()
        silu_TF = gate_TF * sigmoid_TF
        slope_TF = sigmoid_TF + silu_TF * (1 - sigmoid_TF)
        activation_TF = silu_TF * up_TF
        gate_up_T2F.copy_(torch.cat((gradient_TF * up_TF * slope_TF, gradient_TF * silu_TF), -1))
        da_TF.copy_(activation_TF)

    def split_heads(self, qkv_TQ: torch.Tensor, layout: Layout, rules: HeadRules, *, out: Heads) -> None:
        """See `Kernels`."""
        q_THW, k_TKW, v_TKW = _heads_of(qkv_TQ, rules)
        place_T = _places(layout, qkv_TQ.device)
        cos_T1F, sin_T1F = rules.cos_PF[place_T][:, None], rules.sin_PF[place_T][:, None]
        q_THW = _rotated(_normed(q_THW.float(), rules.query_norm_W, rules.epsilon), cos_T1F, sin_T1F)
        k_TKW = _rotated(_normed(k_TKW.float(), rules.key_norm_W, rules.epsilon), cos_T1F, sin_T1F)
        self.tokens_to_heads(q_THW.to(qkv_TQ.dtype), layout, out=out.queries)
        self.tokens_to_heads(k_TKW.to(qkv_TQ.dtype), layout, out=out.keys)
        self.tokens_to_heads(v_TKW, layout, out=out.values)

    def merge_heads(
        self, gradient: Heads, qkv_TQ: torch.Tensor | None, layout: Layout, rules: HeadRules, *, out_TQ: torch.Tensor
    ) -> None:
        """See `Kernels`."""
        dq_THW, dk_TKW, dv_TKW = _heads_of(out_TQ, rules)
        self.heads_to_tokens(gradient.queries, layout, out_THW=dq_THW)
        self.heads_to_tokens(gradient.keys, layout, out_THW=dk_TKW)
        self.heads_to_tokens(gradient.values, layout, out_THW=dv_TKW)
        place_T = _places(layout, out_TQ.device)
        cos_T1F, sin_T1F = rules.cos_PF[place_T][:, None], rules.sin_PF[place_T][:, None]
        inputs = _heads_of(qkv_TQ, rules) if qkv_TQ is not None else (None, None, None)
        norms = (rules.query_norm_W, rules.key_norm_W)
        for part, read, norm_W in zip((dq_THW, dk_TKW), inputs[:2], norms, strict=True):
            turned = _rotated(part.float(), cos_T1F, -sin_T1F)
            if norm_W is not None and read is not None:
                scale = torch.rsqrt(read.float().square().mean(-1, keepdim=True) + rules.epsilon)
                turned = _norm_gradient(turned * norm_W, read.float(), scale)
            part.copy_(turned)

    def tokens_to_heads(self, tokens_THW: torch.Tensor, layout: Layout, *, out: torch.Tensor) -> None:
        """See `Kernels`."""
        padded = torch.cat((tokens_THW, tokens_THW.new_zeros(1, *tokens_THW.shape[1:])))
        slots_SHW = padded[layout.token_of_slot.to(padded.device)]
        for bucket in layout.buckets:
            rows = slots_SHW[bucket.slot : bucket.slot + bucket.slots]
            rows = rows.view(bucket.documents, bucket.length, *tokens_THW.shape[1:]).transpose(1, 2)
            bucket_part(out, bucket, tokens_THW.shape[1:]).copy_(rows)

    def heads_to_tokens(self, heads: torch.Tensor, layout: Layout, *, out_THW: torch.Tensor) -> None:
        """See `Kernels`."""
        shape = out_THW.shape[1:]
        parts = [bucket_part(heads, bucket, shape).transpose(1, 2).flatten(0, 1) for bucket in layout.buckets]
        if parts:
            out_THW.copy_(torch.cat(parts)[layout.slot_of_token.to(heads.device)])

    def causal_softmax(self, scores_LL: torch.Tensor, scale: float) -> None:
        """See `Kernels`."""
        length = scores_LL.shape[-1]
        squares = scores_LL.view(-1, length, length)
        hidden_LL = torch.ones(length, length, dtype=torch.bool, device=scores_LL.device).triu(1)
        squares.copy_((squares.float() * scale).masked_fill(hidden_LL, -torch.inf).softmax(-1))

    def causal_softmax_backward(self, probabilities_LL: torch.Tensor, gradient_LL: torch.Tensor, scale: float) -> None:
        """See `Kernels`."""
        p_LL, d_LL = probabilities_LL.float(), gradient_LL.float()
        gradient_LL.copy_(p_LL * (d_LL - (p_LL * d_LL).sum(-1, keepdim=True)) * scale)

    def cross_entropy(
        self,
        logits_RV: torch.Tensor,
        targets_R: torch.Tensor,
        sums_R: torch.Tensor | None,
        *,
        losses_R: torch.Tensor,
        correct_R: torch.Tensor,
    ) -> None:
        """See `Kernels`."""
        largest_R = logits_RV.float().amax(-1)
        powers_RV = torch.exp(logits_RV.float() - largest_R[:, None])
        total_R, at_targets_R1 = powers_RV.sum(-1), targets_R[:, None]
        losses_R.copy_(total_R.log() + largest_R - logits_RV.gather(1, at_targets_R1)[:, 0])
        correct_R.copy_(logits_RV.argmax(-1) == targets_R)
        if sums_R is not None:
            sums_R.copy_(total_R)
            powers_RV.scatter_add_(1, at_targets_R1, -total_R[:, None])
            logits_RV.copy_(powers_RV)


def bucket_part(heads: torch.Tensor, bucket: Bucket, shape: torch.Size) -> torch.Tensor:
    """A bucket's [documents, heads, length, width] of a flat tensor; `shape` is [heads, width]."""
    numbers = shape.numel()
    part = heads.view(-1)[bucket.slot * numbers : (bucket.slot + bucket.slots) * numbers]
    return part.view(bucket.documents, shape[0], bucket.length, shape[1])


def _places(layout: Layout, device: torch.device) -> torch.Tensor:
    return layout.place_of_slot[layout.slot_of_token].to(device)


def _heads_of(qkv_TQ: torch.Tensor, rules: HeadRules) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = qkv_TQ.view(len(qkv_TQ), -1, rules.width)
    q_THW, k_TKW, v_TKW = torch.split(rows, [rules.heads, rules.key_heads, rules.key_heads], 1)
    return q_THW, k_TKW, v_TKW


def _normed(x: torch.Tensor, norm_W: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    return x if norm_W is None else x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * norm_W


def _norm_gradient(d: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Through x * scale, where scale is 1 / rms(x): the part of d along x changes nothing but x's length."""
    normed = x * scale
    return scale * (d - normed * (d * normed).mean(-1, keepdim=True))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
