import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine.decoder import decoder_shape
from engine.decoder.rope import frequencies
from engine.decoder.shape import Rope

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "rms_norm_eps": 1e-6,
}


def write_config(folder: Path, **settings: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama"} | settings))
    return folder


def test_measures_come_from_the_configuration(tmp_path: Path) -> None:
    shape = decoder_shape(write_config(tmp_path, tie_word_embeddings=True, attention_bias=True))
    assert shape is not None
    assert (shape.width, shape.inner_width, shape.layers, shape.vocabulary) == (64, 96, 2, 97)
    assert (shape.heads, shape.key_heads, shape.head_width) == (4, 2, 16)
    assert (shape.tied_head, shape.qkv_bias, shape.output_bias, shape.mlp_bias) == (True, True, True, False)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "gpt2"},
        {"model_type": "smollm3", "no_rope_layers": [1, 0]},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"pretraining_tp": 2},
        {"layer_types": ["full_attention", "chunked_attention"]},
    ],
)
def test_models_of_another_shape_are_not_known(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert decoder_shape(write_config(tmp_path, **settings)) is None


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 32}, 32),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 32}, None),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True}, 32),
        ({"model_type": "qwen3", "sliding_window": 32, "layer_types": ["full_attention"] * 2}, None),
        ({"model_type": "qwen3", "sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]}, 32),
    ],
)
def test_the_sliding_window_is_known(tmp_path: Path, settings: dict[str, Any], window: int | None) -> None:
    shape = decoder_shape(write_config(tmp_path, **settings))
    assert shape is not None
    assert shape.sliding_window == window


def test_older_and_newer_ways_of_writing_the_rope_are_the_same(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    older = decoder_shape(write_config(tmp_path, rope_theta=5e5, rope_scaling=scaling | {"type": "llama3"}))
    newer = decoder_shape(write_config(tmp_path, rope_parameters=scaling | {"rope_type": "llama3", "rope_theta": 5e5}))
    assert older is not None
    assert older == newer
    assert older.rope == Rope(5e5, "llama3", 8.0, 1.0, 4.0, 64)


@pytest.mark.parametrize(
    "rope",
    [
        Rope(1e4),
        Rope(5e5, "linear", 3.0),
        Rope(5e5, "llama3", 8.0, 1.0, 4.0, 512),
    ],
)
def test_frequencies_are_those_of_transformers(rope: Rope) -> None:
    parameters = {
        "rope_type": rope.scaling,
        "rope_theta": rope.theta,
        "factor": rope.factor,
        "low_freq_factor": rope.low_frequency_factor,
        "high_freq_factor": rope.high_frequency_factor,
        "original_max_position_embeddings": rope.pretraining_tokens,
    }
    fields = {"linear": ("factor",), "llama3": tuple(parameters)[2:]}.get(rope.scaling, ())
    config = transformers.LlamaConfig(
        head_dim=64,
        max_position_embeddings=8192,
        rope_parameters={key: parameters[key] for key in ("rope_type", "rope_theta", *fields)},
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    assert torch.allclose(frequencies(rope, 64), embedding.inv_freq, rtol=1e-6)
