"""The kernels in C++, called with the addresses of tensors.

ctypes checks no shape: it is the path's own tensors that arrive here, contiguous and of the formats `interface` names.
"""

import ctypes
from typing import TYPE_CHECKING

import torch

from engine.decoder.kernels.interface import HeadRules, Heads, Normed
from engine.decoder.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

P, N, X = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

# The arguments of every function in kernels.cpp, in order: P an address, N a count, X a number.
SIGNATURES: dict[str, tuple[type, ...]] = {
    "add_norm": (P, P, P, X, P, P, P, N, N),
    "norm_backward": (P, P, P, P, P, P, P, N, N),
    "swiglu": (P, P, N, N),
    "swiglu_backward": (P, P, N, N),
    "split_heads": (P, P, N, P, P, P, P, X, P, P, P, N, N, N),
    "merge_heads": (P, P, P, P, P, N, P, P, P, P, X, P, N, N, N),
    "tokens_to_heads": (P, P, N, P, N, N),
    "heads_to_tokens": (P, P, N, P, N, N),
    "causal_softmax": (P, X, N, N),
    "causal_softmax_backward": (P, P, X, N, N),
    "cross_entropy": (P, P, P, P, P, N, N),
}

# As kernels.cpp calls the formats it can be compiled for.
NUMBERS = {torch.float32: "float", torch.bfloat16: "bf16"}


class NativeKernels:
    """One number format on the CPU, from its compiled library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call: dict[str, Callable[..., None]] = {}
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
            self._call[name] = function

    def add_norm(
        self, h_TD: torch.Tensor, y_TD: torch.Tensor | None, weight_D: torch.Tensor, epsilon: float, *, out: Normed
    ) -> None:
        """See `Kernels`."""
        made = (_at(out.residual_TD), _at(out.x_TD), _at(out.scale_T))
        self._call["add_norm"](_at(h_TD), _at(y_TD), _at(weight_D), epsilon, *made, *h_TD.shape)

    def norm_backward(
        self, dx_TD: torch.Tensor, at: Normed, weight_D: torch.Tensor, dh_TD: torch.Tensor, *, dh_low_TD: torch.Tensor
    ) -> None:
        """See `Kernels`."""
        read = (_at(dx_TD), _at(at.residual_TD), _at(weight_D), _at(at.scale_T))
        self._call["norm_backward"](*read, _at(dh_TD), _at(dh_low_TD), _at(at.x_TD), *dx_TD.shape)

    def swiglu(self, gate_up_T2F: torch.Tensor, *, out_TF: torch.Tensor) -> None:
        """See `Kernels`."""
        self._call["swiglu"](_at(gate_up_T2F), _at(out_TF), *out_TF.shape)

    def swiglu_backward(self, gate_up_T2F: torch.Tensor, da_TF: torch.Tensor) -> None:
        """See `Kernels`."""
        self._call["swiglu_backward"](_at(gate_up_T2F), _at(da_TF), *da_TF.shape)

    def split_heads(self, qkv_TQ: torch.Tensor, layout: Layout, rules: HeadRules, *, out: Heads) -> None:
        """See `Kernels`."""
        made = (_at(out.queries), _at(out.keys), _at(out.values))
        self._call["split_heads"](_at(qkv_TQ), *_documents(layout), *_rules(rules), *made, *_measures(rules))

    def merge_heads(
        self, gradient: Heads, qkv_TQ: torch.Tensor | None, layout: Layout, rules: HeadRules, *, out_TQ: torch.Tensor
    ) -> None:
        """See `Kernels`."""
        read = (_at(gradient.queries), _at(gradient.keys), _at(gradient.values), _at(qkv_TQ))
        self._call["merge_heads"](*read, *_documents(layout), *_rules(rules), _at(out_TQ), *_measures(rules))

    def tokens_to_heads(self, tokens_THW: torch.Tensor, layout: Layout, *, out: torch.Tensor) -> None:
        """See `Kernels`."""
        self._call["tokens_to_heads"](_at(tokens_THW), *_documents(layout), _at(out), *tokens_THW.shape[1:])

    def heads_to_tokens(self, heads: torch.Tensor, layout: Layout, *, out_THW: torch.Tensor) -> None:
        """See `Kernels`."""
        self._call["heads_to_tokens"](_at(heads), *_documents(layout), _at(out_THW), *out_THW.shape[1:])

    def causal_softmax(self, scores_LL: torch.Tensor, scale: float) -> None:
        """See `Kernels`."""
        length = scores_LL.shape[-1]
        self._call["causal_softmax"](_at(scores_LL), scale, scores_LL.numel() // length, length)

    def causal_softmax_backward(self, probabilities_LL: torch.Tensor, gradient_LL: torch.Tensor, scale: float) -> None:
        """See `Kernels`."""
        length = gradient_LL.shape[-1]
        rows = gradient_LL.numel() // length
        self._call["causal_softmax_backward"](_at(probabilities_LL), _at(gradient_LL), scale, rows, length)

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
        made = (_at(losses_R), _at(correct_R))
        self._call["cross_entropy"](_at(logits_RV), _at(targets_R), _at(sums_R), *made, *logits_RV.shape)


def _at(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _documents(layout: Layout) -> tuple[int, int]:
    return layout.documents_N4.data_ptr(), len(layout.documents_N4)


def _rules(rules: HeadRules) -> tuple[int | float | None, ...]:
    norms = (_at(rules.query_norm_W), _at(rules.key_norm_W))
    return (_at(rules.cos_PF), _at(rules.sin_PF), *norms, rules.epsilon)


def _measures(rules: HeadRules) -> tuple[int, int, int]:
    return rules.heads, rules.key_heads, rules.width
