"""The frozen base model: loaded once, shared by every run of the plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from domain.plans import Compute, Device, Precision
from engine.failures import BadBaseModel

# What makes bf16 products faster than fp32 ones, as /proc/cpuinfo names it on x86 and on ARM.
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}

PLAIN_ATTENTION_TOKENS = 256

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


@dataclass(frozen=True)
class BaseModel:
    """The network with every weight frozen, on its device."""

    network: Any
    device: torch.device
    precision: Precision

    @property
    def head(self) -> nn.Module:
        """The output embedding: hidden states to logits."""
        head: nn.Module = self.network.get_output_embeddings()
        return head

    def attend_to(self, longest_row_tokens: int) -> None:
        """Choose how attention is computed. Its result is the same; its speed and memory depend on the rows' length.

        On a CPU, the plain products train short rows a quarter faster than torch's fused attention, whose backward is
        slow there; but they keep T x T numbers a head, which long rows cannot afford.
        """
        plain = self.device.type == "cpu" and longest_row_tokens <= PLAIN_ATTENTION_TOKENS
        self.network.set_attn_implementation("eager" if plain else "sdpa")

    def multiplying(self) -> torch.autocast:
        """Within it, matrix products take the base's number format; fp32 adapter masters are cast as they are used."""
        enabled = self.precision is Precision.BF16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


def load_base_model(folder: Path, precision: Precision, device: torch.device) -> BaseModel:
    """Load an ordinary model folder from disk, safetensors only, no code of its own. Raises BadBaseModel."""
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[precision],
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadBaseModel("The base model's files are missing or cannot be read.") from error
    network.requires_grad_(requires_grad=False)
    network.to(device)
    return BaseModel(network, device, precision)


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
