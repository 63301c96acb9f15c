"""Whether a run will fit into memory, asked before its first step rather than answered by the kernel's OOM killer."""

from pathlib import Path

import torch

from domain.plans import Compute
from engine.adapter import Adapter
from engine.failures import OutOfMemory
from engine.path import Path as ComputePath

KIB = 1024
GIB = 1024**3

# Of every trained parameter: the fp32 master, its gradient, and AdamW's two moments.
STATE_BYTES = 16

# What the estimate leaves to the allocator and to everybody else on the machine.
MARGIN = 0.05

# Limits of a container: version 2 of the kernel's interface, then version 1.
CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def needed_bytes(path: ComputePath, adapter: Adapter, pass_tokens: int, longest_row_tokens: int) -> int:
    """What a run adds to a process that already holds the base: a pass's activations, and the optimiser's two moments.

    Masters and gradients are there by the time one can ask.
    """
    moments = adapter.parameters * STATE_BYTES // 2
    return moments + path.activation_bytes(max(pass_tokens, longest_row_tokens), longest_row_tokens)


def free_bytes(device: torch.device) -> int:
    """What is left on the device, or on this machine within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = int(_meminfo()["MemAvailable"]) * KIB
    return min([available, *(left for files in CGROUP_LIMITS if (left := _left(*files)) is not None)])


def _meminfo() -> dict[str, str]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}


def _left(limit: Path, used: Path) -> int | None:
    """What a container has left; None where nothing limits it."""
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):
        return None


def check_fits(
    path: ComputePath, adapter: Adapter, compute: Compute, *, batch_tokens: int, longest_row_tokens: int, free: int
) -> int:
    """The estimate in bytes. Raises OutOfMemory with advice where it exceeds what is free.

    batch_tokens: of the largest batch a rank takes; a pass holds no more than the token budget of them.
    """
    pass_tokens = min(batch_tokens, compute.token_budget)
    needed = needed_bytes(path, adapter, pass_tokens, longest_row_tokens)
    if needed > free * (1 - MARGIN):
        advice = _advice(compute, pass_tokens=pass_tokens, longest_row_tokens=longest_row_tokens)
        raise OutOfMemory(
            f"Training needs about {needed / GIB:.1f} GiB beside the base model, and {free / GIB:.1f} GiB are free: "
            f"a pass has {max(pass_tokens, longest_row_tokens)} tokens. {advice}"
        )
    return needed


def _advice(compute: Compute, *, pass_tokens: int, longest_row_tokens: int) -> str:
    if longest_row_tokens >= pass_tokens:
        remedy = f"The longest row decides, with {longest_row_tokens} tokens: a smaller `max_seq_len` helps"
    else:
        remedy = "A smaller token budget or `batch_size` helps"
    if compute.activation_checkpointing:
        return remedy + "."
    return remedy + ", or activation checkpointing."
