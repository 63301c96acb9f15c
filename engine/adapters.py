"""Adapters on the frozen base: put in, taken out, written and read in PEFT's format.

`build_adapter` is the one place that knows what a method is; a further method is a further type it accepts.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from domain.runs import LoraMethod
from engine.atomic import sync
from engine.base_model import BaseModel
from engine.failures import BadData

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """An adapter while it sits on the base."""

    network: PeftModel
    method: LoraMethod
    target_modules: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name, in the network's order."""
        return {name: weight for name, weight in self.network.named_parameters() if weight.requires_grad}

    def weights(self) -> dict[str, torch.Tensor]:
        """The fp32 masters under PEFT's names, on the CPU."""
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(self.network)
        return {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in state.items()}

    def load_weights(self, path: Path) -> None:
        """Set every weight from a safetensors file; raises ValueError where names or shapes differ."""
        loaded, own = load_file(path), self.weights()
        if {name: weight.shape for name, weight in loaded.items()} != {n: w.shape for n, w in own.items()}:
            raise ValueError("the file's tensors are not this adapter's")
        set_peft_model_state_dict(self.network, loaded)


@contextmanager
def adapter_on(base: BaseModel, method: LoraMethod) -> Iterator[Adapter]:
    """A fresh adapter on the base, drawn from torch's current random state; the base is bare again afterwards."""
    network = build_adapter(base, method)
    try:
        # Under autocast the products choose the format; PEFT would first copy every input to fp32.
        with disable_input_dtype_casting(network):
            config: Any = network.peft_config["default"]
            yield Adapter(network, method, tuple(sorted(config.target_modules)))
    finally:
        network.unload()


def build_adapter(base: BaseModel, method: LoraMethod) -> PeftModel:
    """Inject the method's trainable weights, fp32. Raises BadData where the base has no such modules."""
    # PEFT declares alpha an integer and computes with any number.
    settings: dict[str, Any] = {"lora_alpha": method.alpha, "target_modules": _peft_targets(method)}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.lora_rank,
        lora_dropout=method.dropout,
        use_rslora=method.use_rslora,
        **settings,
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a property that transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            network: PeftModel = get_peft_model(base.network, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise BadData("The base model has none of the target modules.") from error
    return network


def _peft_targets(method: LoraMethod) -> str | list[str]:
    return method.target_modules if isinstance(method.target_modules, str) else list(method.target_modules)


def export_adapter(adapter: Adapter, folder: Path, *, base_model: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors, loadable by peft and vLLM."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(adapter.weights(), folder / WEIGHTS)
    config = folder / CONFIG
    config.write_text(json.dumps(_peft_config(adapter, base_model), indent=2, sort_keys=True) + "\n")
    sync(config)
    sync(folder)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write and flush a safetensors file; its bytes depend on the tensors alone."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)
    sync(path)


def _peft_config(adapter: Adapter, base_model: str) -> dict[str, Any]:
    # Only what describes the weights. The base is named, never located: the file travels.
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": adapter.method.alpha,
        "lora_dropout": adapter.method.dropout,
        "peft_type": "LORA",
        "r": adapter.method.lora_rank,
        "target_modules": list(adapter.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": adapter.method.use_rslora,
    }


def read_method(folder: Path) -> LoraMethod:
    """The method that an adapter folder's configuration describes. Raises BadData."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        wanted = config["target_modules"]
        return LoraMethod(
            lora_rank=config["r"],
            alpha=float(config["lora_alpha"]),
            target_modules=tuple(wanted) if isinstance(wanted, list) else wanted,
            use_rslora=config.get("use_rslora", False),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData("The adapter's configuration cannot be read.") from error


@contextmanager
def stored_adapter_on(base: BaseModel, folder: Path) -> Iterator[Adapter]:
    """The adapter of a folder on the base, to measure it. Raises BadData where the two do not fit."""
    with adapter_on(base, read_method(folder)) as adapter:
        try:
            adapter.load_weights(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise BadData("The adapter's weights do not fit its configuration or the base model.") from error
        yield adapter
