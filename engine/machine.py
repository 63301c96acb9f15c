"""What a report says about the process: versions and memory."""

import platform
import resource
from importlib.metadata import version

import torch

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
