"""The frozen base model: loaded once, shared by every run of the plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from domain.plans import Precision
from engine.failures import BadBaseModel
from engine.machine import DTYPES

PLAIN_ATTENTION_TOKENS = 256


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
        enabled = self.precision is not Precision.FP32
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=enabled)


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
