"""The loss: cross-entropy of the supervised tokens, with never more than a portion of the logits in fp32.

Shapes: R supervised tokens, C of them at a time, V vocabulary, D width.
"""

from typing import Any, NamedTuple

import torch

# What a portion's fp32 logits may count: products want more rows, the passes over the logits a processor's cache.
PORTION_LOGITS = 4 * 1024 * 1024


class TokenLosses(NamedTuple):
    """total is the weighted sum of loss_R, and alone has a gradient.

    loss_R are the supervised tokens' losses in nats, correct_R whether the likeliest token was the right one.
    """

    total: torch.Tensor
    loss_R: torch.Tensor
    correct_R: torch.Tensor


class Wanted(NamedTuple):
    """The tokens to predict, and what the gradient of each one's loss is multiplied with."""

    targets_R: torch.Tensor
    weights_R: torch.Tensor


def losses_of_hidden(hidden_RD: torch.Tensor, weight_VD: torch.Tensor, wanted: Wanted) -> TokenLosses:
    """Of hidden states behind which only a frozen product stands. Their logits are made and forgotten in portions."""
    return TokenLosses(*_hidden_losses(hidden_RD, weight_VD, wanted))


def losses_of_logits(logits_RV: torch.Tensor, wanted: Wanted) -> TokenLosses:
    """Of logits that the model made in its own way."""
    return TokenLosses(*_logit_losses(logits_RV, wanted))


class _HiddenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_RD: torch.Tensor, weight_VD: torch.Tensor, wanted: Wanted) -> Any:
        d_hidden_RD = torch.empty_like(hidden_RD) if ctx.needs_input_grad[0] else None
        portions = []
        for begin, end in _portions(len(hidden_RD), len(weight_VD)):
            logits_CV = hidden_RD[begin:end] @ weight_VD.t()
            loss_C, correct_C, d_logits_CV = _portion(logits_CV, wanted, begin, gradient=d_hidden_RD is not None)
            portions.append((loss_C, correct_C))
            if d_hidden_RD is not None and d_logits_CV is not None:
                torch.mm(d_logits_CV, weight_VD, out=d_hidden_RD[begin:end])
        ctx.save_for_backward(d_hidden_RD)
        return _finish(ctx, portions, wanted)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (d_hidden_RD,) = ctx.saved_tensors
        return d_hidden_RD * grads[0], None, None


class _LogitLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_RV: torch.Tensor, wanted: Wanted) -> Any:
        d_logits_RV = torch.empty_like(logits_RV) if ctx.needs_input_grad[0] else None
        portions = []
        for begin, end in _portions(*logits_RV.shape):
            loss_C, correct_C, d_logits_CV = _portion(
                logits_RV[begin:end], wanted, begin, gradient=d_logits_RV is not None
            )
            portions.append((loss_C, correct_C))
            if d_logits_RV is not None and d_logits_CV is not None:
                d_logits_RV[begin:end] = d_logits_CV
        ctx.save_for_backward(d_logits_RV)
        return _finish(ctx, portions, wanted)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (d_logits_RV,) = ctx.saved_tensors
        return d_logits_RV * grads[0], None


_hidden_losses: Any = _HiddenLosses.apply
_logit_losses: Any = _LogitLosses.apply


def _portions(rows: int, vocabulary: int) -> list[tuple[int, int]]:
    step = max(1, PORTION_LOGITS // vocabulary)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def _portion(
    logits_CV: torch.Tensor, wanted: Wanted, begin: int, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Losses, whether right, and the gradient of the logits, weighted."""
    end = begin + len(logits_CV)
    targets_C1, weights_C1 = wanted.targets_R[begin:end, None], wanted.weights_R[begin:end, None]
    log_shares_CV = torch.log_softmax(logits_CV, -1, dtype=torch.float32)
    loss_C = -log_shares_CV.gather(1, targets_C1).squeeze(1)
    correct_C = logits_CV.argmax(-1) == targets_C1.squeeze(1)
    if not gradient:
        return loss_C, correct_C, None
    d_logits_CV = log_shares_CV.exp_().mul_(weights_C1).scatter_add_(1, targets_C1, -weights_C1)
    return loss_C, correct_C, d_logits_CV.to(logits_CV.dtype)


def _finish(ctx: Any, portions: list[tuple[torch.Tensor, torch.Tensor]], wanted: Wanted) -> Any:
    loss_R = torch.cat([loss_C for loss_C, _ in portions])
    correct_R = torch.cat([correct_C for _, correct_C in portions])
    ctx.mark_non_differentiable(loss_R, correct_R)
    return (loss_R * wanted.weights_R).sum(), loss_R, correct_R
