"""Adapter folders in PEFT's format: adapter_config.json beside adapter_model.safetensors.

Written with what describes the weights and nothing else, so that equal adapters are equal bytes; the base is named,
never located, because the folder travels. Read with torch alone: peft takes seconds to import.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from domain.runs import LoraBias, LoraMethod
from engine.adapter import PREFIX, Adapter, SiteShape, lora_names
from engine.atomic import sync
from engine.failures import BadData
from engine.path import LinearShape
from engine.targets import select_sites, shortest_names
from engine.tensors import write_tensors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

BIAS, ADAPTED_BIAS = ".bias", ".base_layer.bias"

# What peft can do and this engine cannot: a folder that uses one is refused, not half understood.
FOREIGN = (
    "alora_invocation_tokens",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)

# Starts that peft takes out of the base whenever it loads the adapter: the file alone does not say what it computes.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class PeftConfig(BaseModel):
    """The part of adapter_config.json that says what the weights compute."""

    model_config = ConfigDict(extra="allow")

    base_model_name_or_path: str | None = None
    bias: LoraBias = LoraBias.NONE
    fan_in_fan_out: bool = False
    inference_mode: bool = True
    init_lora_weights: bool | str = True
    lora_alpha: int | float
    lora_bias: bool = False
    lora_dropout: float = 0.0
    peft_type: str
    r: int = Field(ge=1)
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, int | float] = Field(default_factory=dict)
    target_modules: list[str] | str
    task_type: str | None = None
    use_dora: bool = False
    use_rslora: bool = False


def write_peft(adapter: Adapter, folder: Path, *, base_model: str, linears: Mapping[str, LinearShape]) -> None:
    """Write a LoRA adapter on the unmodified base. An adapter with `starts` must be made plain first."""
    if not isinstance(adapter.method, LoraMethod) or adapter.starts:
        raise TypeError("PEFT's format holds plain LoRA adapters")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(adapter.weights(), folder / WEIGHTS)
    config = _describe(adapter, adapter.method, base_model=base_model, linears=linears)
    write_text(json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n", folder / CONFIG)
    sync(folder)


def _describe(
    adapter: Adapter, method: LoraMethod, *, base_model: str, linears: Mapping[str, LinearShape]
) -> PeftConfig:
    adapted = [site.linear for site in adapter.sites]
    # Servers refuse adapters that declare biases; most base models have none to train.
    has_biases = any(name.endswith(BIAS) for name in adapter.shapes)
    return PeftConfig(
        base_model_name_or_path=base_model,
        bias=method.bias if has_biases else LoraBias.NONE,
        fan_in_fan_out=any(linears[linear].fan_in_fan_out for linear in adapted),
        lora_alpha=_plain(method.alpha),
        lora_dropout=method.dropout,
        peft_type="LORA",
        r=method.lora_rank,
        rank_pattern=method.rank_pattern,
        alpha_pattern={key: _plain(alpha) for key, alpha in method.alpha_pattern.items()},
        target_modules=list(shortest_names(adapted, linears)),
        task_type="CAUSAL_LM",
        use_dora=method.use_dora,
        use_rslora=method.use_rslora,
    )


def _plain(alpha: float) -> int | float:
    # Some readers declare alpha an integer.
    return int(alpha) if alpha.is_integer() else alpha


def write_text(text: str, path: Path) -> None:
    """Write and flush a text file that others may read."""
    path.write_text(text)
    path.chmod(0o644)
    sync(path)


def read_config(folder: Path) -> PeftConfig:
    """A folder's configuration. Raises BadData where it cannot be read or asks for what the engine cannot compute."""
    try:
        config = PeftConfig.model_validate_json((folder / CONFIG).read_bytes())
    except (OSError, ValidationError) as error:
        raise BadData("The adapter's configuration cannot be read.") from error
    if config.peft_type != "LORA":
        raise BadData("The adapter is no LoRA adapter.")
    for field in FOREIGN:
        if getattr(config, field, None):
            raise BadData(f"The adapter uses {field}, which this engine does not compute.")
    if str(config.init_lora_weights).lower().startswith(CHANGE_THE_BASE):
        raise BadData("The adapter changes the base model's weights; export it as a plain LoRA adapter first.")
    return config


def read_method(folder: Path) -> LoraMethod:
    """The method that a folder's configuration describes. Raises BadData."""
    config = read_config(folder)
    wanted = config.target_modules
    if isinstance(wanted, str) and wanted != "all-linear":
        raise BadData("The adapter names its layers by a regular expression, which this engine does not read.")
    try:
        return LoraMethod(
            lora_rank=config.r,
            alpha=float(config.lora_alpha),
            dropout=config.lora_dropout,
            target_modules="all-linear" if isinstance(wanted, str) else tuple(wanted),
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            bias=config.bias,
            rank_pattern=config.rank_pattern,
            alpha_pattern={key: float(alpha) for key, alpha in config.alpha_pattern.items()},
        )
    except ValidationError as error:
        raise BadData("The adapter's configuration is out of range.") from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors by name. Raises BadData."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BadData("The adapter's weights cannot be read.") from error


def read_adapter(folder: Path, linears: Mapping[str, LinearShape], device: torch.device) -> Adapter:
    """The adapter of a folder, to be measured or trained on. Raises BadData where it does not fit the base."""
    method, weights = read_method(folder), read_weights(folder)
    sites = select_sites(linears, method)
    expected = expected_shapes(sites, linears, use_dora=method.use_dora)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.endswith(BIAS)}
    if found != expected:
        raise BadData("The adapter's weights do not fit its configuration or the base model.")
    # Factors in the order in which a fresh adapter has them, then biases.
    names = [*expected, *(name for name in weights if name not in expected)]
    return Adapter(method, {name: weights[name].to(device) for name in names}, sites=sites)


def expected_shapes(
    sites: tuple[SiteShape, ...], linears: Mapping[str, LinearShape], *, use_dora: bool
) -> dict[str, tuple[int, ...]]:
    """The shapes of A, B and the magnitude of every adapted layer, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in sites:
        a, b, magnitude = lora_names(site.linear)
        linear = linears[site.linear]
        shapes |= {a: (site.rank, linear.in_features), b: (linear.out_features, site.rank)}
        if use_dora:
            shapes[magnitude] = (linear.out_features,)
    return shapes


def bias_parameter(name: str) -> str | None:
    """The base's parameter that a tensor of the file replaces, or None where it is no bias.

    The bias of an adapted layer lies one module deeper, in what peft wraps.
    """
    if not name.endswith(BIAS):
        return None
    return name.removeprefix(PREFIX).removesuffix(ADAPTED_BIAS).removesuffix(BIAS) + BIAS


def patterned(numbers: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """The commonest of the layers' numbers, and a pattern for the layers with another one."""
    common, _ = Counter(numbers.values()).most_common(1)[0]
    pattern: dict[str, int] = {}
    for number in sorted(set(numbers.values()) - {common}):
        group = [linear for linear, value in numbers.items() if value == number]
        pattern |= dict.fromkeys(shortest_names(group, numbers), number)
    return common, pattern
