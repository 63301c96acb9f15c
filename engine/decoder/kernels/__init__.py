"""Elementwise kernels: native where this machine can compile them, plain torch elsewhere."""

import torch

from engine.decoder.kernels.build import library
from engine.decoder.kernels.interface import HeadRules, Heads, Kernels, Normed
from engine.decoder.kernels.native import NUMBERS, NativeKernels
from engine.decoder.kernels.reference import ReferenceKernels, bucket_part
from engine.decoder.kernels.thin import ThinProducts, TileThin, TorchThin

__all__ = [
    "HeadRules",
    "Heads",
    "Kernels",
    "Normed",
    "ThinProducts",
    "bucket_part",
    "kernels_for",
    "thin_products_for",
]


def kernels_for(dtype: torch.dtype, device: torch.device) -> Kernels:
    """The fastest there are for a number format on a device. The first call on a machine compiles."""
    number = NUMBERS.get(dtype) if device.type == "cpu" else None
    compiled = library(number) if number else None
    return NativeKernels(compiled) if compiled else ReferenceKernels()


def thin_products_for(dtype: torch.dtype, device: torch.device) -> ThinProducts:
    """The fastest products of adapters: by tiles in bf16 where the processor has them, else torch's."""
    compiled = library(NUMBERS[dtype]) if dtype is torch.bfloat16 and device.type == "cpu" else None
    return TileThin(compiled) if compiled and compiled.thin_products() else TorchThin()
