"""What a pass costs: operations by counting weights, memory by watching what autograd keeps of a few tokens."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from engine.general.adapted import AdaptedLinear, LoraFactors

TRIAL_RANK = 8

# The share of temporaries, such as gradients on their way, on top of what is kept.
TEMPORARIES = 1.25


class Kept(NamedTuple):
    """Bytes that autograd keeps of a token: always, and for every token of the longest row that attention weighs."""

    a_token: float
    a_token_seen: float


class Multiplied(NamedTuple):
    """Weights that take part in products: of every token, and of a supervised one besides."""

    a_token: float
    a_supervised_token: float


def multiplied_weights(network: Any, linears: Mapping[str, AdaptedLinear], routed: frozenset[str]) -> Multiplied:
    """Of linear layers and experts. Of experts, those count that a token is sent to."""
    config = network.config.get_text_config()
    experts = _number(config, "num_experts", "num_local_experts", "n_routed_experts")
    share = _number(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk") / experts
    total = 0.0
    for name, linear in linears.items():
        total += linear.shape.out_features * linear.shape.in_features * (share if name in routed else 1.0)
    for parameter in network.parameters():
        # transformers keeps all experts of a layer in one parameter.
        if parameter.dim() == 3 and experts > 1 and len(parameter) == experts:  # noqa: PLR2004
            total += parameter.numel() * share
    return Multiplied(total, float(network.get_output_embeddings().weight.numel()))


def _number(config: Any, *names: str) -> int:
    return next((int(value) for name in names if (value := getattr(config, name, None))), 1)


def trial_factors(linear: AdaptedLinear, dtype: torch.dtype, device: torch.device) -> LoraFactors:
    """A LoRA that does nothing, for a trial pass."""
    a_RI = torch.zeros(TRIAL_RANK, linear.shape.in_features, dtype=dtype, device=device)
    b_OR = torch.zeros(linear.shape.out_features, TRIAL_RANK, dtype=dtype, device=device)
    return LoraFactors(slice(0, None), 1.0, a_RI, b_OR, None, None, 0.0, 0, a_RI.clone(), b_OR.clone())


class KeptBytes:
    """Within it, the bytes of all tensors that autograd keeps for a backward pass are counted, a storage once."""

    def __init__(self, network: nn.Module) -> None:
        own = [*network.parameters(), *network.buffers()]
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._kept: list[torch.UntypedStorage] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            # Held, so that no other tensor takes its place in memory.
            self._kept.append(storage)
        return tensor

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(storage.nbytes() for storage in self._kept)
