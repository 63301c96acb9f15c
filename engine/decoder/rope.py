"""Cosines and sines of the rotary embedding, for every place a document may have.

Shapes: P places, F frequencies (half a head's width).
"""

import math

import torch

from engine.decoder.shape import DecoderShape, Rope


class RopeTable:
    """cos_PF and sin_PF in fp32, made as far as the longest document so far has needed them."""

    def __init__(self, shape: DecoderShape, device: torch.device) -> None:
        self._frequencies_F = frequencies(shape.rope, shape.head_width)
        self._device = device
        self.cos_PF = self.sin_PF = torch.empty(0, len(self._frequencies_F), device=device)

    def reach(self, places: int) -> None:
        """Have at least so many places."""
        if places <= len(self.cos_PF):
            return
        angles_PF = torch.arange(max(places, 2 * len(self.cos_PF))).float()[:, None] * self._frequencies_F
        self.cos_PF, self.sin_PF = angles_PF.cos().to(self._device), angles_PF.sin().to(self._device)


def frequencies(rope: Rope, head_width: int) -> torch.Tensor:
    """Radians a place, [F], fastest first."""
    exponents_F = torch.arange(0, head_width, 2).float() / head_width
    plain_F = 1.0 / rope.theta**exponents_F
    if rope.scaling == "linear":
        return plain_F / rope.factor
    if rope.scaling == "llama3":
        return _llama3(rope, plain_F)
    return plain_F


def _llama3(rope: Rope, plain_F: torch.Tensor) -> torch.Tensor:
    """Keep what turns often within the pretraining context, divide what hardly turns, and blend in between."""
    turns_F = rope.pretraining_tokens * plain_F / (2 * math.pi)
    kept_F = (turns_F - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    kept_F = kept_F.clamp(0, 1)
    return kept_F * plain_F + (1 - kept_F) * plain_F / rope.factor
