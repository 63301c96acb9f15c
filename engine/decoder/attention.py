"""Causal attention within every document, forward and backward.

Short documents on a CPU: plain products over a bucket, all query heads of one key head stacked as rows, so that keys
and values are never repeated, and the probabilities kept for the backward pass. Long documents, and CUDA: torch's
fused attention, which keeps no probabilities.

Shapes: T tokens, E all query heads' numbers, Q those of queries, keys and values, B documents of a bucket, H query
heads, K key heads, G query heads a key head, L a bucket's length, W head width.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from engine.decoder.arena import Arena
from engine.decoder.kernels import HeadRules, Heads, Kernels, bucket_part
from engine.decoder.layout import Bucket, Layout
from engine.decoder.shape import DecoderShape

# From this length on, a CPU computes the fused attention faster than plain products over all of L x L.
FUSED_FROM_TOKENS = 512


@dataclass(frozen=True)
class Fused:
    """A bucket's output with torch's own graph behind it, and the queries, keys and values it was made of."""

    o_BHLW: torch.Tensor
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Attended:
    """What a layer's backward pass needs: of every bucket its probabilities [B K, G L, L], or torch's graph."""

    heads: Heads
    buckets: tuple[torch.Tensor | Fused, ...]


class Attention:
    """Attention over one pass's documents: the same buckets in every layer."""

    def __init__(self, layout: Layout, shape: DecoderShape, kernels: Kernels, arena: Arena, *, plain: bool) -> None:
        """`plain` allows plain products for short buckets."""
        self._layout, self._kernels, self._arena = layout, kernels, arena
        self._query_heads = torch.Size((shape.heads, shape.head_width))
        self._key_heads = torch.Size((shape.key_heads, shape.head_width))
        self._scale = shape.head_width**-0.5
        self._is_plain = [plain and bucket.length < FUSED_FROM_TOKENS for bucket in layout.buckets]

    def forward(self, qkv_TQ: torch.Tensor, rules: HeadRules, place: int, *, out_TE: torch.Tensor) -> Attended:
        """Write what the heads give for every token. What is kept lies in the arena at `place`."""
        heads = self._heads("", qkv_TQ.dtype, place)
        self._kernels.split_heads(qkv_TQ, self._layout, rules, out=heads)
        outputs = self._slots("attended", self._query_heads, qkv_TQ.dtype, 0)
        kept: list[torch.Tensor | Fused] = []
        for bucket, room in zip(self._layout.buckets, self._probabilities(qkv_TQ.dtype, place), strict=True):
            if room is None:
                kept.append(self._fused_forward(bucket, heads, outputs))
            else:
                self._plain_forward(bucket, heads, room, outputs)
                kept.append(room)
        self._kernels.heads_to_tokens(outputs, self._layout, out_THW=out_TE.view(-1, *self._query_heads))
        return Attended(heads, tuple(kept))

    def backward(
        self,
        do_TE: torch.Tensor,
        kept: Attended,
        qkv_TQ: torch.Tensor | None,
        rules: HeadRules,
        *,
        out_TQ: torch.Tensor,
    ) -> None:
        """Write the gradient of qkv. qkv_TQ is needed where heads have norms."""
        gradient = self._heads("d_", do_TE.dtype, 0)
        do = self._slots("d_attended", self._query_heads, do_TE.dtype, 0)
        self._kernels.tokens_to_heads(do_TE.view(-1, *self._query_heads), self._layout, out=do)
        for bucket, found in zip(self._layout.buckets, kept.buckets, strict=True):
            if isinstance(found, Fused):
                self._fused_backward(bucket, found, do, gradient)
            else:
                self._plain_backward(bucket, kept.heads, found, (do, gradient))
        self._kernels.merge_heads(gradient, qkv_TQ, self._layout, rules, out_TQ=out_TQ)

    def _plain_forward(self, bucket: Bucket, heads: Heads, probabilities: torch.Tensor, outputs: torch.Tensor) -> None:
        queries, keys, values = self._stacked(bucket, heads)
        torch.bmm(queries, keys.transpose(1, 2), out=probabilities)
        self._kernels.causal_softmax(probabilities, self._scale)
        torch.bmm(probabilities, values, out=self._rows(bucket, outputs))

    def _plain_backward(
        self, bucket: Bucket, heads: Heads, probabilities: torch.Tensor, gradients: tuple[torch.Tensor, Heads]
    ) -> None:
        """`gradients`: of the outputs, which are there, and of the heads, to be written."""
        queries, keys, values = self._stacked(bucket, heads)
        do_rows = self._rows(bucket, gradients[0])
        dq, dk, dv = self._stacked(bucket, gradients[1])
        torch.bmm(probabilities.transpose(1, 2), do_rows, out=dv)
        dscores = self._arena.take("d_scores", 0, tuple(probabilities.shape), do_rows.dtype)
        torch.bmm(do_rows, values.transpose(1, 2), out=dscores)
        self._kernels.causal_softmax_backward(probabilities, dscores, self._scale)
        torch.bmm(dscores, keys, out=dq)
        torch.bmm(dscores.transpose(1, 2), queries, out=dk)

    def _fused_forward(self, bucket: Bucket, heads: Heads, outputs: torch.Tensor) -> Fused:
        q_BHLW, k_BKLW, v_BKLW = (part.detach().requires_grad_() for part in self._parts(bucket, heads))
        with torch.enable_grad():
            o_BHLW = functional.scaled_dot_product_attention(q_BHLW, k_BKLW, v_BKLW, is_causal=True, enable_gqa=True)
        bucket_part(outputs, bucket, self._query_heads).copy_(o_BHLW.detach())
        return Fused(o_BHLW, (q_BHLW, k_BKLW, v_BKLW))

    def _fused_backward(self, bucket: Bucket, fused: Fused, do: torch.Tensor, gradient: Heads) -> None:
        do_BHLW = bucket_part(do, bucket, self._query_heads)
        found = torch.autograd.grad(fused.o_BHLW, fused.inputs, do_BHLW)
        for part, value in zip(self._parts(bucket, gradient), found, strict=True):
            part.copy_(value)

    def _slots(self, name: str, heads: torch.Size, dtype: torch.dtype, place: int) -> torch.Tensor:
        return self._arena.take(name, place, (self._layout.slots * heads.numel(),), dtype)

    def _heads(self, name: str, dtype: torch.dtype, place: int) -> Heads:
        return Heads(
            self._slots(f"{name}queries", self._query_heads, dtype, place),
            self._slots(f"{name}keys", self._key_heads, dtype, place),
            self._slots(f"{name}values", self._key_heads, dtype, place),
        )

    def _probabilities(self, dtype: torch.dtype, place: int) -> list[torch.Tensor | None]:
        """Room for every plain bucket's."""
        shapes = [
            (bucket.documents * self._key_heads[0], -1, bucket.length) if plain else None
            for bucket, plain in zip(self._layout.buckets, self._is_plain, strict=True)
        ]
        sizes = [
            bucket.slots * self._query_heads[0] * bucket.length if plain else 0
            for bucket, plain in zip(self._layout.buckets, self._is_plain, strict=True)
        ]
        room = self._arena.take("probabilities", place, (sum(sizes),), dtype)
        parts = torch.split(room, sizes)
        return [part.view(shape) if shape else None for part, shape in zip(parts, shapes, strict=True)]

    def _parts(self, bucket: Bucket, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, H or K, L, W] of one bucket."""
        return (
            bucket_part(heads.queries, bucket, self._query_heads),
            bucket_part(heads.keys, bucket, self._key_heads),
            bucket_part(heads.values, bucket, self._key_heads),
        )

    def _stacked(self, bucket: Bucket, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries as [B K, G L, W], keys and values as [B K, L, W]."""
        return (
            self._rows(bucket, heads.queries),
            bucket_part(heads.keys, bucket, self._key_heads).flatten(0, 1),
            bucket_part(heads.values, bucket, self._key_heads).flatten(0, 1),
        )

    def _rows(self, bucket: Bucket, heads: torch.Tensor) -> torch.Tensor:
        """Numbers a query head has, as [B K, G L, W]."""
        key_heads, width = self._key_heads
        return bucket_part(heads, bucket, self._query_heads).view(bucket.documents * key_heads, -1, width)
