"""The layers of one pass, written out forward and backward.

There is no autograd here: what has no gradient to receive, or nobody to receive it, is not computed, and what a
backward pass needs is kept or made again on purpose. Normed rows and SwiGLU's activation are made again by the
backward kernels, which read what they are made of anyway.

Shapes: T tokens, D width, F inner width, E all query heads' numbers, Q those of queries, keys and values,
I in_features and O out_features of a group.
"""

from dataclasses import dataclass

import torch

from engine.decoder.arena import Arena
from engine.decoder.attention import Attended, Attention
from engine.decoder.kernels import HeadRules, Kernels, Normed
from engine.decoder.lora import Adapted, Adapters
from engine.decoder.rope import RopeTable
from engine.decoder.shape import GROUPS, DecoderShape
from engine.decoder.weights import DecoderWeights


@dataclass(frozen=True)
class Machinery:
    """What every pass shares: the model, the kernels, and the memory."""

    shape: DecoderShape
    weights: DecoderWeights
    rope: RopeTable
    kernels: Kernels
    arena: Arena


@dataclass(frozen=True)
class Kept:
    """What a layer's backward pass reads. qkv_TQ is kept only where heads have norms."""

    attention_norm: Normed
    mlp_norm: Normed
    qkv_TQ: torch.Tensor | None
    attended: Attended
    attended_TE: torch.Tensor
    gate_up_T2F: torch.Tensor
    adapted: dict[str, Adapted]


class Layers:
    """A pass over the layers with one set of documents and adapters.

    With `recompute`, only the residual stream before each layer is kept, and a layer's forward pass is done again
    when its gradient is due.
    """

    def __init__(self, machinery: Machinery, attention: Attention, adapters: Adapters, *, recompute: bool) -> None:
        self._shape, self._weights, self._rope = machinery.shape, machinery.weights, machinery.rope
        self._kernels, self._arena = machinery.kernels, machinery.arena
        self._attention, self._adapters, self._recompute = attention, adapters, recompute
        self._low = machinery.weights.embedding_VD.dtype
        self._residuals_TD: list[torch.Tensor] = []
        self._kept: list[Kept] = []

    def forward(self, ids_T: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream before its last addition, and what is to be added. `keep` for a backward pass."""
        h_TD = self._take("h", 0, (len(ids_T), self._shape.width), torch.float32)
        h_TD.copy_(self._weights.embedding_VD.index_select(0, ids_T))
        y_TD: torch.Tensor | None = None
        for layer in range(self._shape.layers):
            place = layer if keep and not self._recompute else 0
            kept = self._to_gate_up(layer, h_TD, y_TD, (layer if keep else 0, place))
            y_TD = self._down(layer, kept)
            h_TD = kept.mlp_norm.residual_TD
            if keep:
                self._residuals_TD.append(kept.attention_norm.residual_TD)
            if keep and not self._recompute:
                self._kept.append(kept)
        assert y_TD is not None  # noqa: S101 - there is at least one layer
        return h_TD, y_TD

    def backward(self, dh_TD: torch.Tensor) -> None:
        """Add all gradients to the adapters', given that of the residual stream behind the last layer; it is lost."""
        lowest = self._adapters.lowest_layer
        if lowest is None:
            return
        dh_low_TD = self._take("dh_low", 0, tuple(dh_TD.shape), self._low)
        dh_low_TD.copy_(dh_TD)
        for layer in range(self._shape.layers - 1, lowest - 1, -1):
            if self._recompute:
                kept = self._to_gate_up(layer, self._residuals_TD[layer], None, (layer, 0))
                self._down(layer, kept)
            else:
                kept = self._kept.pop()
            self._mlp_backward(layer, kept, dh_TD, dh_low_TD)
            self._attention_backward(layer, kept, dh_TD, dh_low_TD, is_lowest=layer == lowest)

    def _to_gate_up(self, layer: int, h_TD: torch.Tensor, y_TD: torch.Tensor | None, places: tuple[int, int]) -> Kept:
        """A layer's forward pass as far as its backward pass will read it. `places`: of the residual, of the rest."""
        (residual_place, place), tokens, weights = places, len(h_TD), self._weights.layers[layer]
        adapted = {group: self._adapters.on(layer, group) for group in GROUPS}
        attention_norm = self._normed("h", h_TD, y_TD, weights.attention_norm_D, place=residual_place)
        qkv_place = place if self._shape.normed_heads else 0
        qkv_TQ = self._product(layer, "qkv", attention_norm.x_TD, adapted["qkv"], place=qkv_place)
        attended_TE = self._take("attended_tokens", place, (tokens, self._shape.query_width), self._low)
        attended = self._attention.forward(qkv_TQ, self._rules(layer), place, out_TE=attended_TE)
        y_TD = self._product(layer, "output", attended_TE, adapted["output"], place=0)
        mlp_norm = self._normed("h_mlp", attention_norm.residual_TD, y_TD, weights.mlp_norm_D, place=place)
        gate_up_T2F = self._product(layer, "gate_up", mlp_norm.x_TD, adapted["gate_up"], place=place)
        kept_TQ = qkv_TQ if self._shape.normed_heads else None
        return Kept(attention_norm, mlp_norm, kept_TQ, attended, attended_TE, gate_up_T2F, adapted)

    def _down(self, layer: int, kept: Kept) -> torch.Tensor:
        a_TF = self._take("a", 0, (len(kept.gate_up_T2F), self._shape.inner_width), self._low)
        self._kernels.swiglu(kept.gate_up_T2F, out_TF=a_TF)
        return self._product(layer, "down", a_TF, kept.adapted["down"], place=0)

    def _mlp_backward(self, layer: int, kept: Kept, dh_TD: torch.Tensor, dh_low_TD: torch.Tensor) -> None:
        a_TF = self._gradient(layer, "down", dh_low_TD, kept)
        self._kernels.swiglu_backward(kept.gate_up_T2F, a_TF)
        kept.adapted["down"].finish(a_TF)
        dx_TD = self._gradient(layer, "gate_up", kept.gate_up_T2F, kept)
        norm_D = self._weights.layers[layer].mlp_norm_D
        self._kernels.norm_backward(dx_TD, kept.mlp_norm, norm_D, dh_TD, dh_low_TD=dh_low_TD)
        kept.adapted["gate_up"].finish(kept.mlp_norm.x_TD)

    def _attention_backward(
        self, layer: int, kept: Kept, dh_TD: torch.Tensor, dh_low_TD: torch.Tensor, *, is_lowest: bool
    ) -> None:
        do_TE = self._gradient(layer, "output", dh_low_TD, kept)
        kept.adapted["output"].finish(kept.attended_TE)
        dqkv_TQ = self._take("d_qkv", 0, (len(dh_TD), sum(self._shape.out_features("qkv"))), self._low)
        self._attention.backward(do_TE, kept.attended, kept.qkv_TQ, self._rules(layer), out_TQ=dqkv_TQ)
        norm, norm_D = kept.attention_norm, self._weights.layers[layer].attention_norm_D
        if is_lowest:
            kept.adapted["qkv"].backward(dqkv_TQ, None)
            self._kernels.add_norm(norm.residual_TD, None, norm_D, self._shape.norm_epsilon, out=norm)
        else:
            dx_TD = self._gradient(layer, "qkv", dqkv_TQ, kept)
            self._kernels.norm_backward(dx_TD, norm, norm_D, dh_TD, dh_low_TD=dh_low_TD)
        kept.adapted["qkv"].finish(norm.x_TD)

    def _normed(
        self, name: str, h_TD: torch.Tensor, y_TD: torch.Tensor | None, weight_D: torch.Tensor, *, place: int
    ) -> Normed:
        shape = tuple(h_TD.shape)
        residual_TD = h_TD if y_TD is None else self._take(name, place, shape, torch.float32)
        x_TD = self._take("x", 0, shape, self._low)
        normed = Normed(residual_TD, x_TD, self._take(f"{name}_scale", place, shape[:1], torch.float32))
        self._kernels.add_norm(h_TD, y_TD, weight_D, self._shape.norm_epsilon, out=normed)
        return normed

    def _product(self, layer: int, group: str, x_TI: torch.Tensor, adapted: Adapted, *, place: int) -> torch.Tensor:
        """A group's output for x. Valid at place 0 until the next layer's."""
        product = self._weights.layers[layer].products[group]
        y_TO = self._take(f"{group}_out", place, (len(x_TI), len(product.weight_OI)), self._low)
        if product.bias_O is None:
            torch.mm(x_TI, product.weight_IO, out=y_TO)
        else:
            torch.addmm(product.bias_O, x_TI, product.weight_IO, out=y_TO)
        adapted.forward(x_TI, y_TO)
        return y_TO

    def _gradient(self, layer: int, group: str, dy_TO: torch.Tensor, kept: Kept) -> torch.Tensor:
        """The gradient of what a group read. Valid until the next layer's."""
        weight_OI = self._weights.layers[layer].products[group].weight_OI
        dx_TI = self._take(f"{group}_dx", 0, (len(dy_TO), weight_OI.shape[1]), self._low)
        torch.mm(dy_TO, weight_OI, out=dx_TI)
        kept.adapted[group].backward(dy_TO, dx_TI)
        return dx_TI

    def _rules(self, layer: int) -> HeadRules:
        shape, weights = self._shape, self._weights.layers[layer]
        return HeadRules(
            heads=shape.heads,
            key_heads=shape.key_heads,
            width=shape.head_width,
            cos_PF=self._rope.cos_PF,
            sin_PF=self._rope.sin_PF,
            query_norm_W=weights.query_norm,
            key_norm_W=weights.key_norm,
            epsilon=shape.norm_epsilon,
        )

    def _take(self, name: str, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self._arena.take(name, place, shape, dtype)
