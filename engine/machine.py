"""What this machine and process are: devices, number formats, versions, memory."""

import platform
import resource
from importlib.metadata import version
from pathlib import Path

import torch

from domain.plans import Compute, Device, Precision

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}

# What makes bf16 products faster than fp32 ones, as /proc/cpuinfo names it on x86 and on ARM.
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "jinja2")

KIB = 1024


def versions() -> dict[str, str]:
    """Python and the packages whose change may change a number."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def peak_memory_bytes(device: torch.device) -> int:
    """The most this rank has held: device memory on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def resolve(compute: Compute, device: torch.device) -> Compute:
    """The compute settings with `auto` replaced by what it means on this machine."""
    precision = compute.precision
    if precision is Precision.AUTO:
        precision = Precision.BF16 if _has_native_bf16(device) else Precision.FP32
    return compute.model_copy(update={"precision": precision, "device": Device(device.type)})


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and not NATIVE_BF16.isdisjoint(processor.read_text().split())
