"""Which base models the fast path knows, and their measures.

Llama, Mistral, Qwen2 and Qwen3 are one network with small differences: biases, a norm on queries and keys, the
frequencies of the rotary embedding. What stands here is all the rest of the path asks about a model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

# What `json` gives: read with care, checked where it is used.
Settings = Mapping[str, object]

# Module names inside a layer, in the model's order, by the product that computes them together.
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "output": ("self_attn.o_proj",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
)

# The fields that change what such a model computes; a model with another value of one is not of this shape.
FIXED: Mapping[str, Settings] = MappingProxyType(
    {
        "llama": {"hidden_act": "silu", "pretraining_tp": 1},
        "mistral": {"hidden_act": "silu"},
        "qwen2": {"hidden_act": "silu"},
        "qwen3": {"hidden_act": "silu"},
    }
)

# Rope theta of a config.json that names none, as transformers' classes have it.
DEFAULT_THETA = 10000.0


@dataclass(frozen=True)
class Rope:
    """The rotary embedding (Su et al. 2021, arXiv:2104.09864) and how its frequencies are stretched.

    `linear` divides all of them by `factor`; `llama3` only those slower than the pretraining context, with a ramp
    between the two bounds (Llama 3.1's own rule).
    """

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    pretraining_tokens: int = 8192


@dataclass(frozen=True)
class LinearPlace:
    """Where a linear layer is computed: the columns `outputs` of its group's product in a layer."""

    layer: int
    group: str
    outputs: slice
    in_features: int
    group_out_features: int


@dataclass(frozen=True)
class DecoderShape:
    """The measures of a decoder. `width` is of the residual stream, `inner_width` of the feed-forward block.

    `sliding_window` is that of some layer, if any has one: documents must not be longer.
    """

    model_type: str
    vocabulary: int
    width: int
    inner_width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    norm_epsilon: float
    rope: Rope
    tied_head: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    normed_heads: bool
    sliding_window: int | None

    @property
    def query_width(self) -> int:
        """Numbers a token in all queries."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Numbers a token in all keys, and in all values."""
        return self.key_heads * self.head_width

    def in_features(self, group: str) -> int:
        """What each linear layer of a group reads."""
        return {"output": self.query_width, "down": self.inner_width}.get(group, self.width)

    def out_features(self, group: str) -> tuple[int, ...]:
        """What the linear layers of a group give, in their order."""
        return {
            "qkv": (self.query_width, self.key_width, self.key_width),
            "output": (self.width,),
            "gate_up": (self.inner_width, self.inner_width),
            "down": (self.width,),
        }[group]

    def has_bias(self, group: str) -> bool:
        """Whether the linear layers of a group add one."""
        return {"qkv": self.qkv_bias, "output": self.output_bias}.get(group, self.mlp_bias)

    def linears(self) -> dict[str, LinearPlace]:
        """Every linear layer an adapter may sit on, by transformers' name, in the model's order."""
        found = {}
        for layer in range(self.layers):
            for group, names in GROUPS.items():
                outputs = self.out_features(group)
                for number, name in enumerate(names):
                    first = sum(outputs[:number])
                    place = LinearPlace(
                        layer, group, slice(first, first + outputs[number]), self.in_features(group), sum(outputs)
                    )
                    found[f"model.layers.{layer}.{name}"] = place
        return found


def decoder_shape(folder: Path) -> DecoderShape | None:
    """The measures of the model in a folder, or None where it is not of this shape. Raises OSError, ValueError."""
    settings = json.loads((folder / "config.json").read_text())
    if not isinstance(settings, dict) or not _is_decoder(settings):
        return None
    rope = _rope(settings)
    if rope is None:
        return None
    model_type, width, heads = str(settings["model_type"]), _integer(settings, "width"), _integer(settings, "heads")
    attention_bias = bool(settings.get("attention_bias", False))
    return DecoderShape(
        model_type=model_type,
        vocabulary=_integer(settings, "vocabulary"),
        width=width,
        inner_width=_integer(settings, "inner_width"),
        layers=_integer(settings, "layers"),
        heads=heads,
        key_heads=_integer(settings, "key_heads", heads),
        head_width=_integer(settings, "head_width", width // heads),
        norm_epsilon=_number(settings.get("rms_norm_eps"), 1e-6),
        rope=rope,
        tied_head=bool(settings.get("tie_word_embeddings", False)),
        qkv_bias=model_type == "qwen2" or (attention_bias and model_type != "mistral"),
        output_bias=attention_bias and model_type in {"llama", "qwen3"},
        mlp_bias=bool(settings.get("mlp_bias", False)) and model_type == "llama",
        normed_heads=model_type == "qwen3",
        sliding_window=_window(settings, model_type),
    )


FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "inner_width": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "head_width": "head_dim",
}


def _is_decoder(settings: Settings) -> bool:
    fixed = FIXED.get(str(settings.get("model_type")))
    if fixed is None or any(settings.get(field, value) != value for field, value in fixed.items()):
        return False
    layer_types = settings.get("layer_types") or []
    known = {"full_attention", "sliding_attention"}
    return (
        not settings.get("quantization_config")
        and not settings.get("no_rope_layers")
        and isinstance(layer_types, list)
        and known.issuperset(layer_types)
    )


def _integer(settings: Settings, name: str, default: int | None = None) -> int:
    value = settings.get(FIELDS[name])
    value = default if value is None else value
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"config.json says no usable {FIELDS[name]}")
    return value


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _window(settings: Settings, model_type: str) -> int | None:
    """As in transformers: Qwen's window is off by default and for its first layers, Mistral's is on where given."""
    window = settings.get("sliding_window")
    layer_types = settings.get("layer_types")
    if not isinstance(window, int) or model_type == "llama":
        return None
    if isinstance(layer_types, list):
        return window if "sliding_attention" in layer_types else None
    return window if model_type == "mistral" or settings.get("use_sliding_window") else None


def _rope(settings: Settings) -> Rope | None:
    """Read the newer `rope_parameters` or the older `rope_theta` and `rope_scaling`; None for a kind not known here."""
    found = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        return None
    kind = str(found.get("rope_type", found.get("type", "default")))
    partial = found.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1))
    if kind not in {"default", "linear", "llama3"} or partial not in {1, None}:
        return None
    return Rope(
        theta=_number(found.get("rope_theta", settings.get("rope_theta")), DEFAULT_THETA),
        scaling=kind,
        factor=_number(found.get("factor"), 1.0),
        low_frequency_factor=_number(found.get("low_freq_factor"), 1.0),
        high_frequency_factor=_number(found.get("high_freq_factor"), 4.0),
        pretraining_tokens=int(_number(found.get("original_max_position_embeddings"), 8192)),
    )
