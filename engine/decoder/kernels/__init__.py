"""Elementwise kernels: native where this machine can compile them, plain torch elsewhere."""

import torch

from engine.decoder.kernels.build import library
from engine.decoder.kernels.interface import HeadRules, Heads, Kernels, Normed
from engine.decoder.kernels.native import NUMBERS, NativeKernels
from engine.decoder.kernels.reference import ReferenceKernels, bucket_part

__all__ = ["HeadRules", "Heads", "Kernels", "Normed", "bucket_part", "kernels_for"]


def kernels_for(dtype: torch.dtype, device: torch.device) -> Kernels:
    """The fastest there are for a number format on a device. The first call on a machine compiles."""
    number = NUMBERS.get(dtype) if device.type == "cpu" else None
    compiled = library(number) if number else None
    return NativeKernels(compiled) if compiled else ReferenceKernels()
