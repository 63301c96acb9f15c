import json
import struct
from pathlib import Path
from typing import Any

import pytest

from domain.base_models import BaseModelFacts, TensorGroup
from domain.peft_folders import (
    CONFIG,
    WEIGHTS,
    check_file_name,
    check_folder,
    check_tokenizer_file,
    expected_shapes,
    read_config,
    with_base_model,
)
from domain.refusals import Refusal

# What peft 0.21 writes for a plain adapter.
WRITTEN: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "tiny", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.0,
    "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 2,
    "rank_pattern": {}, "revision": None, "target_modules": ["q_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip
FACTS = BaseModelFacts(
    model_type="llama",
    hidden_size=4,
    num_hidden_layers=1,
    max_position_embeddings=64,
    linear_modules=("q_proj",),
    tensors=(
        TensorGroup(name="model.embed_tokens.weight", shape=(10, 4)),
        TensorGroup(name="model.layers.*.self_attn.q_proj.weight", shape=(6, 4), numbers=(0,)),
        TensorGroup(name="model.layers.*.self_attn.q_proj.bias", shape=(6,), numbers=(0,)),
    ),
)
Q = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {f"{Q}.lora_A.weight": (2, 4), f"{Q}.lora_B.weight": (6, 2)}


def config(**changes: Any) -> bytes:
    return json.dumps(WRITTEN | changes).encode()


def weights(shapes: dict[str, tuple[int, ...]]) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def code_of(refused: pytest.ExceptionInfo[Refusal]) -> tuple[str, str | None]:
    return refused.value.code, refused.value.param


def test_what_peft_writes_is_read() -> None:
    read = read_config(config(rank_pattern={"q_proj": 4}, lora_alpha=6.5, use_rslora=True))
    assert (read.r, read.rank_pattern, read.lora_alpha, read.use_rslora) == (2, {"q_proj": 4}, 6.5, True)
    assert read.method.target_modules == ("q_proj",)


FORBIDDEN: list[tuple[str, Any]] = [
    ("auto_mapping", {"base_model_class": "X", "parent_library": "os"}),
    ("auto_mapping", {}),
    ("megatron_config", {"a": 1}),
    ("megatron_core", "os"),
    ("layer_replication", [[0, 1], [0, 1]]),
    ("loftq_config", {"loftq_bits": 4}),
    ("eva_config", {"rho": 2.0}),
    ("corda_config", {"cache_file": "/etc/passwd"}),
    ("lora_ga_config", {"direction": "ArBr"}),
    ("runtime_config", {"ephemeral_gpu_offload": True}),
    ("runtime_config", None),
    ("revision", "main"),
    ("modules_to_save", ["lm_head"]),
    ("trainable_token_indices", [1]),
    ("trainable_token_indices", {"embed_tokens": [1]}),
    ("target_parameters", ["mlp.experts"]),
    ("layers_to_transform", [0]),
    ("exclude_modules", ["k_proj"]),
    ("lora_bias", True),
    ("use_qalora", True),
    ("qalora_group_size", 8),
    ("use_bdlora", {"nblocks": 2}),
    ("alora_invocation_tokens", [1]),
    ("velora_config", {}),
    ("ensure_weight_tying", True),
    ("trust_remote_code", True),
    ("trust_remote_code", None),
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", "pissa_niter_4"),
    ("init_lora_weights", "olora"),
    ("init_lora_weights", "loftq"),
    ("init_lora_weights", "eva"),
    ("init_lora_weights", None),
]


@pytest.mark.parametrize(("key", "value"), FORBIDDEN, ids=[f"{key}={value}"[:40] for key, value in FORBIDDEN])
def test_a_key_that_runs_code_reads_files_or_changes_the_base_is_refused(key: str, value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        read_config(config(**{key: value}))
    assert code_of(refused) == ("forbidden_config_key", key)


VALUES: list[tuple[bytes, str, str]] = [
    (config(r=0), "out_of_range", "r"),
    (config(r=257), "out_of_range", "r"),
    (config(r=True), "wrong_type", "r"),
    (config(r="8"), "wrong_type", "r"),
    (config(lora_alpha=0), "out_of_range", "lora_alpha"),
    (config(lora_dropout=1.0), "out_of_range", "lora_dropout"),
    (config(peft_type="ADALORA"), "invalid_request", "peft_type"),
    (config(bias="some"), "invalid_request", "bias"),
    (config(target_modules=[]), "out_of_range", "target_modules"),
    (config(target_modules=None), "wrong_type", "target_modules"),
    (config(target_modules="(a+)+$"), "unknown_target_module", "target_modules"),
    (config(rank_pattern={"(a+)+$": 2}), "out_of_range", "rank_pattern.(a+)+$"),
    (config(rank_pattern={"q_proj": 2, "self_attn.q_proj": 4}), "conflicting_fields", "rank_pattern.self_attn.q_proj"),
    (config(rank_pattern={"q_proj": 512}), "out_of_range", "rank_pattern.q_proj"),
    (config()[:-1] + b', "r": 4}', "duplicate_key", CONFIG),
    (b"[]", "wrong_type", CONFIG),
    (b"{", "invalid_json", CONFIG),
    (b'{"r": NaN}', "invalid_json", CONFIG),
    (b"[" * 1000, "too_deep", CONFIG),
]


@pytest.mark.parametrize(("content", "code", "param"), VALUES, ids=[str(place) for place in range(len(VALUES))])
def test_a_value_that_cannot_be_is_refused_by_name(content: bytes, code: str, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_config(content)
    assert code_of(refused) == (code, param)


def test_a_config_is_told_the_registrys_name_and_nothing_else_changes() -> None:
    told = with_base_model(config(base_model_name_or_path="org/model", modules_to_save=["lm_head"]), "tiny")
    assert json.loads(told) == WRITTEN | {"modules_to_save": ["lm_head"]}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["adapter_model.bin", "adapter_model.pt", "x.pkl", "x.py", "chat_template.jinja", "README.md", "model.sig",
     "adapter_model.safetensors ", "ADAPTER_CONFIG.JSON", "tokenizer.model", ".adapter_config.json"],
)  # fmt: skip
def test_a_file_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_file_name(name)
    assert code_of(refused) == ("forbidden_file", name)


def test_a_tokenizer_brings_no_program() -> None:
    check_tokenizer_file("tokenizer_config.json", b'{"model_max_length": 10}')
    for key, value in (("auto_map", {}), ("chat_template", "{{ ''.__class__ }}")):
        with pytest.raises(Refusal) as refused:
            check_tokenizer_file("tokenizer_config.json", json.dumps({key: value}).encode())
        assert code_of(refused) == ("forbidden_config_key", f"tokenizer_config.json:{key}")


# --- weights ----------------------------------------------------------------------------------------------------------


def folder_of(path: Path, content: bytes) -> Path:
    (path / WEIGHTS).write_bytes(content)
    return path


def test_exactly_the_tensors_that_the_configuration_means_are_taken(tmp_path: Path) -> None:
    check_folder(folder_of(tmp_path, weights(SHAPES)), read_config(config()), FACTS)


def test_adapted_embeddings_have_the_tokens_in_a_and_the_width_in_b(tmp_path: Path) -> None:
    read = read_config(config(target_modules=["embed_tokens"], rank_pattern={"embed_tokens": 3}))
    embed = "base_model.model.model.embed_tokens"
    shapes = {f"{embed}.lora_embedding_A": (3, 10), f"{embed}.lora_embedding_B": (4, 3)}
    check_folder(folder_of(tmp_path, weights(shapes)), read, FACTS)


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # The configuration, the tensors, and the one at fault.
    ({"r": 4}, SHAPES, f"{Q}.lora_A.weight"),
    ({}, SHAPES | {f"{Q}.lora_A.weight": (2, 5)}, f"{Q}.lora_A.weight"),
    ({}, SHAPES | {f"{Q}.lora_B.weight": (2, 6)}, f"{Q}.lora_B.weight"),
    ({}, {f"{Q}.lora_A.weight": (2, 4)}, f"{Q}.lora_B.weight"),
    ({"use_dora": True}, SHAPES, f"{Q}.lora_magnitude_vector"),
    ({"bias": "all"}, SHAPES, f"{Q}.base_layer.bias"),
    (
        {"rank_pattern": {"q_proj": 3}},
        {f"{Q}.lora_A.weight": (3, 4), f"{Q}.lora_B.weight": (6, 2)},
        f"{Q}.lora_B.weight",
    ),
    (
        {},
        {f"{Q}.lora_A.weight": (2, 4), Q.replace("q_proj", "k_proj") + ".lora_B.weight": (6, 2)},
        Q.replace("q_proj", "k_proj") + ".lora_B.weight",
    ),
    ({"target_modules": ["k_proj"]}, SHAPES, "target_modules"),
]


@pytest.mark.parametrize(("changes", "shapes", "param"), WRONG, ids=[str(place) for place in range(len(WRONG))])
def test_a_tensor_that_is_not_what_rank_and_base_ask_for_is_named(
    tmp_path: Path, changes: dict[str, Any], shapes: dict[str, Any], param: str
) -> None:
    with pytest.raises(Refusal) as refused:
        check_folder(folder_of(tmp_path, weights(shapes)), read_config(config(**changes)), FACTS)
    assert code_of(refused) == ("shape_mismatch", param)


def test_a_tensor_too_many_is_refused_by_their_number(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        check_folder(
            folder_of(tmp_path, weights(SHAPES | {f"{Q}.lora_magnitude_vector": (6,)})), read_config(config()), FACTS
        )
    assert refused.value.code == "bad_header"


def test_dora_and_biases_are_taken_where_the_configuration_says_so(tmp_path: Path) -> None:
    read = read_config(config(use_dora=True, bias="lora_only"))
    shapes = SHAPES | {f"{Q}.lora_magnitude_vector": (6,), f"{Q}.base_layer.bias": (6,)}
    assert expected_shapes(read, FACTS) == shapes
    check_folder(folder_of(tmp_path, weights(shapes)), read, FACTS)
