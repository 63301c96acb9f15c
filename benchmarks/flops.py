"""The operations that training an adapter needs at least: what every engine's MFU is counted by."""

import json
from dataclasses import dataclass
from pathlib import Path

# Forward and the gradient of the inputs, a multiplication and an addition each. Frozen weights need no gradient.
FLOPS_PER_WEIGHT = 4


@dataclass(frozen=True)
class DecoderWeights:
    """How many weights a token meets: in the layers' linear modules, and in the output head."""

    linear: int
    head: int

    @classmethod
    def read(cls, base_model: Path) -> "DecoderWeights":
        """Count a Llama-shaped model by its configuration."""
        config = json.loads((base_model / "config.json").read_text())
        width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        head_width = config.get("head_dim") or width // heads
        queries, keys = heads * head_width, config["num_key_value_heads"] * head_width
        layer = width * queries + 2 * width * keys + queries * width + 3 * width * inner
        return cls(linear=config["num_hidden_layers"] * layer, head=width * config["vocab_size"])

    def needed(self, tokens: int, supervised_tokens: int) -> float:
        """FLOP of a training step. The head is needed where a token is supervised; attention is not counted."""
        return float(FLOPS_PER_WEIGHT * (self.linear * tokens + self.head * supervised_tokens))
