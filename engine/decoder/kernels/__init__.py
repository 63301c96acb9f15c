"""Elementwise kernels: native where this machine can compile them, plain torch elsewhere."""

import torch

from engine.decoder.kernels.build import compiled_for
from engine.decoder.kernels.interface import HeadRules, Heads, Kernels, Normed
from engine.decoder.kernels.native import NUMBERS, NativeKernels
from engine.decoder.kernels.reference import ReferenceKernels, bucket_part
from engine.decoder.kernels.thin import UNITS, Factors, NativeThin, ThinProducts, TorchThin, unit_of

__all__ = [
    "Factors",
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
    compiled = compiled_for(number) if number else None
    return NativeKernels(compiled) if compiled else ReferenceKernels()


def thin_products_for(dtype: torch.dtype, device: torch.device) -> ThinProducts:
    """The fastest products of adapters: in bf16 by the first of `UNITS` that the processor has, else torch's."""
    compiled = compiled_for(NUMBERS[dtype]) if dtype is torch.bfloat16 and device.type == "cpu" else None
    units = [unit_of(compiled, name) for name in UNITS] if compiled else []
    return next((NativeThin(compiled, unit) for unit in units if compiled and unit), TorchThin())
