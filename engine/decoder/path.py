"""The fast path: decoders of Llama's shape, computed by hand for many runs at once.

The documents of all runs lie in one stream without padding. The frozen products are done once over all of it, each
run's adapter on its own tokens, attention within each document, and the head where a token is supervised.

Shapes: T tokens, R supervised tokens, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Self

import torch

from domain.plans import Precision
from domain.runs import Method
from engine.decoder.arena import Arena
from engine.decoder.attention import FUSED_FROM_TOKENS, Attention
from engine.decoder.head import LOGITS_BYTES, Head, Judged
from engine.decoder.kernels import kernels_for, thin_products_for
from engine.decoder.layers import Layers, Machinery
from engine.decoder.layout import LONGER_SHARE, lay_out
from engine.decoder.lora import Adapters, handles
from engine.decoder.rope import RopeTable
from engine.decoder.shape import DecoderShape
from engine.decoder.weights import DecoderWeights, load_weights
from engine.path import LinearShape, Passed, Sums
from engine.stream import Part, Stream, pack

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}

# What adapters of a pass are allowed for in the estimate of memory: thin products of this many ranks a linear layer.
ALLOWED_RANKS = 64


class RowExceedsWindow(ValueError):  # noqa: N818 - named for the fact
    """A row is longer than the base model's sliding window, which this path does not compute."""


class DecoderPath:
    """One rank's fast path on one frozen base. Not to be used by two threads at once."""

    def __init__(
        self, shape: DecoderShape, weights: DecoderWeights, device: torch.device, *, activation_checkpointing: bool
    ) -> None:
        self._dtype = weights.embedding_VD.dtype
        self._shape, self._weights, self._device = shape, weights, device
        self._places = shape.linears()
        self._linears = MappingProxyType(
            {
                name: LinearShape(place.outputs.stop - place.outputs.start, place.in_features)
                for name, place in self._places.items()
            }
        )
        kernels, arena = kernels_for(self._dtype, device), Arena(device)
        self._machinery = Machinery(shape, weights, RopeTable(shape, device), kernels, arena)
        self._head = Head(weights, shape.norm_epsilon, kernels, arena)
        self._thin = thin_products_for(self._dtype, device)
        self._recompute = activation_checkpointing

    @classmethod
    def load(
        cls,
        folder: FilePath,
        shape: DecoderShape,
        precision: Precision,
        device: torch.device,
        *,
        activation_checkpointing: bool = False,
    ) -> Self:
        """Read the weights of a model folder whose `decoder_shape` is `shape`. Raises BadBaseModel."""
        weights = load_weights(folder, shape, DTYPES[precision], device)
        return cls(shape, weights, device, activation_checkpointing=activation_checkpointing)

    @staticmethod
    def handles(method: Method) -> bool:
        """Whether a run of this method can be a part of this path's passes."""
        return handles(method)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def linears(self) -> Mapping[str, LinearShape]:
        """Seven a layer, by transformers' module names, in the model's order."""
        return self._linears

    def weight(self, linear: str) -> torch.Tensor:
        """A layer's frozen weight in fp32, [out_features, in_features]."""
        place = self._places[linear]
        product = self._weights.layers[place.layer].products[place.group]
        return product.weight_OI[place.outputs].float()

    def flops(self, tokens: int, supervised_tokens: int) -> float:
        """Four a weight: see `Path`."""
        linear = sum(out_features * in_features for out_features, in_features, _ in self._linears.values())
        return 4.0 * (linear * tokens + self._weights.head_VD.numel() * supervised_tokens)

    def activation_bytes(self, tokens: int, longest_row_tokens: int) -> int:
        """Room for `tokens` all supervised, in buckets as badly filled as buckets can be. See `Path`."""
        shape, low = self._shape, self._dtype.itemsize
        slots = int(tokens * LONGER_SHARE)
        plain = self._device.type == "cpu"
        scores = slots * shape.heads * min(longest_row_tokens, FUSED_FROM_TOKENS) * low if plain else 0
        heads = slots * (2 * shape.query_width + 2 * shape.key_width) * low
        qkv = tokens * (shape.query_width + 2 * shape.key_width) * low
        residual = tokens * shape.width * 4
        thin = tokens * ALLOWED_RANKS * 7 * low
        inner = tokens * 2 * shape.inner_width * low
        layer = residual + heads + scores + tokens * shape.query_width * low + inner + thin
        if shape.normed_heads:
            layer += qkv
        kept = shape.layers * (residual if self._recompute else layer + residual)
        # The gradients of one layer, the rows at the head, and the logits.
        passing = 2 * layer + 2 * qkv + 4 * residual + inner + 3 * residual
        return kept + passing + LOGITS_BYTES

    @property
    def held_bytes(self) -> int:
        """What passes so far have made it keep besides weights."""
        return self._machinery.arena.held_bytes

    def gradients(self, parts: Sequence[Part]) -> Passed:
        """See `Path`. Raises RowExceedsWindow, ValueError for a method not handled; then no gradient is touched."""
        with torch.no_grad():
            return self._pass(parts, training=True)

    def losses(self, parts: Sequence[Part]) -> Passed:
        """See `Path`. Raises as `gradients` does."""
        with torch.no_grad():
            return self._pass(parts, training=False)

    def _pass(self, parts: Sequence[Part], *, training: bool) -> Passed:
        stream = pack(parts, self._device)
        self._check(stream)
        adapters = Adapters(parts, stream.segments, self._places, self._thin, dtype=self._dtype, training=training)
        if len(stream.selected_R) == 0:
            return Passed([Sums(0.0, 0) for _ in parts], stream.tokens)
        self._machinery.arena.begin_pass()
        self._machinery.rope.reach(max(stream.lengths))
        attention = Attention(
            lay_out(stream.lengths),
            self._shape,
            self._machinery.kernels,
            self._machinery.arena,
            plain=self._device.type == "cpu",
        )
        layers = Layers(self._machinery, attention, adapters, recompute=self._recompute)
        learning = training and adapters.lowest_layer is not None
        h_TD, y_TD = layers.forward(stream.ids_T, keep=learning)
        normed = self._head.normed(h_TD.index_select(0, stream.selected_R) + y_TD.index_select(0, stream.selected_R))
        weights_R = _weights(parts, stream) if learning else None
        judged, dx_RD = self._head.judge(normed, stream.targets_R, weights_R)
        if dx_RD is not None:
            dh_TD = self._machinery.arena.take("dh", 0, tuple(h_TD.shape), torch.float32)
            self._head.backward(dx_RD, normed, stream.selected_R, dh_TD)
            layers.backward(dh_TD)
        return Passed(_sums(judged, stream), stream.tokens)

    def _check(self, stream: Stream) -> None:
        window = self._shape.sliding_window
        if window is not None and max(stream.lengths, default=0) > window:
            raise RowExceedsWindow(f"a row of {max(stream.lengths)} tokens, a window of {window}")


def _weights(parts: Sequence[Part], stream: Stream) -> torch.Tensor:
    """The scale of each supervised token's part."""
    counts = torch.tensor([segment.last - segment.first for segment in stream.segments])
    scales = torch.tensor([part.scale for part in parts], dtype=torch.float32)
    return scales.repeat_interleave(counts).to(stream.ids_T.device)


def _sums(judged: Judged, stream: Stream) -> list[Sums]:
    # Summed in double precision on the host: a device's own sum of floats would depend on how many there are.
    losses_R, correct_R = judged.losses_R.double().cpu(), judged.correct_R.cpu()
    return [
        Sums(float(losses_R[segment.first : segment.last].sum()), int(correct_R[segment.first : segment.last].sum()))
        for segment in stream.segments
    ]
