"""A transformers network seen as the engine's path, and what peft makes of it: a second implementation to compare."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from domain.runs import LoraBias, LoraInit, LoraMethod
from engine.adapter import Adapter
from engine.inits import initial
from engine.path import LinearShape

IDS = torch.tensor([[1, 40, 41, 42, 17, 5], [9, 8, 7, 6, 30, 2]])


class NetworkPath:
    """The layers and weights of a network; it cannot train."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.device = torch.device("cpu")
        head = network.get_output_embeddings()
        self._modules = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head
        }

    @property
    def linears(self) -> Mapping[str, LinearShape]:
        return {
            name: LinearShape(*self.weight(name).shape, fan_in_fan_out=isinstance(module, Conv1D))
            for name, module in self._modules.items()
        }

    def weight(self, linear: str) -> torch.Tensor:
        module = self._modules[linear]
        weight: torch.Tensor = module.weight.detach().float()
        return weight.T if isinstance(module, Conv1D) else weight

    @property
    def bottleneck_sites(self) -> Sequence[tuple[str, int]]:
        hidden = self.network.config.hidden_size
        names = [name for name, _ in self.network.named_modules()]
        return [(name, hidden) for name in names if name.endswith((".attn", ".self_attn", ".mlp"))]

    def biases(self, method: LoraMethod, targets: Sequence[str]) -> Mapping[str, torch.Tensor]:
        found = {}
        for name, bias in self.full_parameters().items():
            module = name.removesuffix(".bias")
            wanted = {LoraBias.NONE: False, LoraBias.LORA_ONLY: module in targets, LoraBias.ALL: True}[method.bias]
            if name.endswith(".bias") and wanted:
                wrapped = ".base_layer" if module in targets else ""
                found[f"base_model.model.{module}{wrapped}.bias"] = bias
        return found

    def full_parameters(self) -> Mapping[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in self.network.named_parameters()}

    def flops(self, tokens: int, supervised_tokens: int) -> float:
        raise NotImplementedError

    def activation_bytes(self, tokens: int, longest_row_tokens: int) -> int:
        raise NotImplementedError

    def gradients(self, parts: Any) -> Any:
        raise NotImplementedError

    def losses(self, parts: Any) -> Any:
        raise NotImplementedError


def write_tiny_gpt2(folder: Path, *, max_shard_size: str = "5GB") -> Path:
    """Random, with Conv1D layers of which some are square, and biases that are not zero."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, bos_token_id=1, eos_token_id=2)
    network: Any = GPT2LMHeadModel(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()


@contextmanager
def quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft asks transformers for a property that transformers has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def adapter_on(path: NetworkPath, method: LoraMethod) -> Adapter:
    """A fresh adapter of ours."""
    return initial(method, path, seed=1, base_model=Path(), rows=())


def peft_config(path: NetworkPath, method: LoraMethod) -> LoraConfig:
    settings: dict[str, Any] = {
        "init_lora_weights": {LoraInit.KAIMING: True}.get(method.init, method.init.value),
        "lora_alpha": method.alpha,
        "target_modules": method.target_modules if isinstance(method.target_modules, str) else [*method.target_modules],
        "bias": method.bias.value,
    }
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.lora_rank,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern=dict(method.alpha_pattern),
        fan_in_fan_out=any(shape.fan_in_fan_out for shape in path.linears.values()),
        **settings,
    )


def peft_on(path: NetworkPath, method: LoraMethod) -> PeftModel:
    """A fresh adapter of peft's on a copy of the network."""
    with quiet_peft():
        return get_peft_model(copy.deepcopy(path.network), peft_config(path, method)).eval()


def loaded_by_peft(base: Path, adapter: Path) -> PeftModel:
    with quiet_peft():
        return PeftModel.from_pretrained(load(base), adapter, local_files_only=True).eval()


def disturb(adapter: Adapter, seed: int = 0) -> None:
    """As if trained: every weight moves a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        adapter.masters_P += 0.05 * torch.randn(adapter.masters_P.shape, generator=generator)


def by_hand(path: NetworkPath, adapter: Adapter) -> Any:
    """A copy of the network with W + scale (B A - B0 A0), DoRA's norm and trained biases written into its weights."""
    network = copy.deepcopy(path.network)
    for site in adapter.sites:
        module: Any = network.get_submodule(site.linear)
        changed = path.weight(site.linear) + site.scale * site.B_OR @ site.A_RI
        if site.start_A_RI is not None and site.start_B_OR is not None:
            changed -= site.scale * site.start_B_OR @ site.start_A_RI
        if site.magnitude_O is not None:
            changed = site.magnitude_O[:, None] * changed / changed.norm(dim=1, keepdim=True)
        module.weight.data = changed.T.contiguous() if isinstance(module, Conv1D) else changed
    for name, value in adapter.values.items():
        if name.endswith(".bias"):
            parameter = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            network.get_parameter(parameter).data = value.clone()
    return network


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, use_cache=False).logits
    return found
