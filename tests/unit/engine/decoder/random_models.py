"""Random models of every kind the fast path knows, adapters on them, and what PEFT and autograd say of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch.nn import functional

from domain.plans import Precision
from domain.runs import LoraMethod
from engine.adapter import Adapter, SiteShape, lora_names
from engine.decoder import DecoderPath, decoder_shape
from engine.stream import Part
from engine.tokenise import TokenisedRow

CPU = torch.device("cpu")
VOCABULARY = 97

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# By name: the class of transformers' configuration, and how it differs from COMMON.
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-untied-biased": (
        "LlamaConfig",
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3_ROPE},
    ),
    "llama-linear-rope": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "llama-ungrouped": ("LlamaConfig", {"num_key_value_heads": 6}),
    "mistral": ("MistralConfig", {"sliding_window": 128, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    # Wide enough for the processor's tiles, whose products need multiples of 32.
    "llama-wide": ("LlamaConfig", {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}),
    "qwen3-wide": ("Qwen3Config", {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}),
}

ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_model(folder: Path, name: str, *, seed: int = 0) -> Path:
    """A model with every weight, bias and norm drawn, so that no part of it goes unnoticed."""
    config_class, changes = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**{**COMMON, **changes})
    network = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "norm" in key:
                parameter.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
    network.save_pretrained(folder)
    return folder


def load_path(folder: Path, *, precision: Precision = Precision.FP32, checkpointing: bool = False) -> DecoderPath:
    shape = decoder_shape(folder)
    assert shape is not None
    return DecoderPath.load(folder, shape, precision, CPU, activation_checkpointing=checkpointing)


def random_rows(lengths: Sequence[int], *, seed: int) -> list[TokenisedRow]:
    """Rows whose first third, at least one token, is not supervised, nor a token here and there."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for line, length in enumerate(lengths, start=1):
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        supervised = [place >= max(1, length // 3) and place % 5 != 4 for place in range(length)]
        rows.append(TokenisedRow(line, tuple(ids), tuple(supervised)))
    return rows


@dataclass(frozen=True)
class Targets:
    """Which layers an adapter has: module names, a rank, and other ranks by module name."""

    rank: int
    alpha: float = 16.0
    modules: tuple[str, ...] = ALL_LINEARS
    ranks: Mapping[str, int] | None = None

    def rank_of(self, linear: str) -> int:
        return (self.ranks or {}).get(linear.rsplit(".", 1)[-1], self.rank)


def random_adapter(
    path: DecoderPath, targets: Targets, *, seed: int, dropout: float = 0.0, pissa: bool = False
) -> Adapter:
    """An adapter whose A and B are both drawn: with B zero, A would have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    initial, starts, sites = {}, {}, []
    for linear, shape in path.linears.items():
        if linear.rsplit(".", 1)[-1] not in targets.modules:
            continue
        rank = targets.rank_of(linear)
        a, b, _ = lora_names(linear)
        initial[a] = torch.randn(rank, shape.in_features, generator=generator) / shape.in_features**0.5
        initial[b] = torch.randn(shape.out_features, rank, generator=generator) * 0.1
        sites.append(SiteShape(linear, rank, targets.alpha / rank))
        if pissa:
            starts[a] = torch.randn(rank, shape.in_features, generator=generator) / shape.in_features**0.5
            starts[b] = torch.randn(shape.out_features, rank, generator=generator) * 0.1
    method = LoraMethod(lora_rank=targets.rank, alpha=targets.alpha, dropout=dropout)
    return Adapter(method, initial, sites=tuple(sites), starts=starts)


@dataclass(frozen=True)
class Expected:
    """What PEFT and autograd say: summed loss, hits, and the gradient of `scale` times the loss by name."""

    loss: float
    correct: int
    gradients: Mapping[str, torch.Tensor]


Change = Callable[[str, torch.Tensor], torch.Tensor]


def by_peft(
    folder: Path, adapter: Adapter, targets: Targets, part: Part, *, dtype: torch.dtype, change: Change | None = None
) -> Expected:
    """One row at a time through transformers' own network with PEFT's own layers. No padding, no packing.

    `change` may replace the base's linear weights by name first.
    """
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    for name, module in network.named_modules():
        if change and isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = change(name, module.weight.data)
    config = peft.LoraConfig(
        r=targets.rank,
        lora_alpha=targets.alpha,
        target_modules=list(targets.modules),
        rank_pattern=dict(targets.ranks or {}),
        alpha_pattern=dict.fromkeys(targets.ranks or {}, targets.alpha),
    )
    network = peft.get_peft_model(network, config)
    found = {}
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            name = key.replace(".default", "")
            parameter.data = adapter.values[name].clone().to(dtype)
            found[name] = parameter
    loss, correct = torch.zeros((), dtype=torch.float64), 0
    for row in part.rows:
        if row.supervised_tokens == 0:
            continue
        logits = network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        places = torch.tensor([place for place, counts in enumerate(row.supervised) if counts])
        wanted = torch.tensor(row.ids)[places]
        some = functional.cross_entropy(logits[places - 1].float(), wanted, reduction="sum")
        (some * part.scale).backward()
        loss += some.detach().double()
        correct += int((logits[places - 1].argmax(-1) == wanted).sum())
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.float()
        for name, parameter in found.items()
    }
    return Expected(float(loss), correct, gradients)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The length of the difference, as a share of the expected length."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))
