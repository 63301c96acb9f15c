"""The sizes that are foretold are those of the files that peft and the engine then write."""

import json
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
from safetensors import safe_open

from domain.adapter_sizes import adapter_shapes, file_bytes, parameters_of
from domain.base_models import BaseModelFacts, facts_of_config, merged_groups, weights_of_header
from domain.layer_patterns import read_key
from domain.runs import LoraBias, LoraInit, LoraMethod
from engine.exports import plain_lora
from engine.peft_format import WEIGHTS, write_peft
from engine.targets import pattern_reader
from tests.network_path import NetworkPath, adapter_on, disturb, load, peft_on, quiet_peft, write_tiny_gpt2

METHODS = {
    "llama plain": LoraMethod(lora_rank=4),
    "llama some layers": LoraMethod(lora_rank=16, target_modules=("q_proj", "down_proj")),
    "llama dora": LoraMethod(lora_rank=4, use_dora=True),
    "llama patterns": LoraMethod(
        lora_rank=4, rank_pattern={"layers.0.self_attn.q_proj": 2, r"layers.\d+.mlp.(up_proj|gate_proj)": 7}
    ),
    "gpt2 plain": LoraMethod(lora_rank=4),
    "gpt2 dora": LoraMethod(lora_rank=3, target_modules=("c_attn", "c_fc"), use_dora=True),
    "gpt2 biases of adapted layers": LoraMethod(lora_rank=4, bias=LoraBias.LORA_ONLY, target_modules=("c_attn",)),
    "gpt2 every bias": LoraMethod(lora_rank=2, bias=LoraBias.ALL, target_modules=("c_attn",)),
}


def facts_of(folder: Path) -> BaseModelFacts:
    weights = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            weights.append(weights_of_header(stream))
    tensors = merged_groups(group for each in weights for group in each.tensors)
    return facts_of_config((folder / "config.json").read_bytes()).model_copy(update={"tensors": tensors})


def facts_with(shapes: Mapping[str, tuple[int, ...]]) -> BaseModelFacts:
    """Of a base model whose only file has these tensors."""
    header = json.dumps({name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}).encode()
    weights = weights_of_header(BytesIO(struct.pack("<Q", len(header)) + header))
    return BaseModelFacts(
        model_type="llama", hidden_size=64, num_hidden_layers=2, max_position_embeddings=64, tensors=weights.tensors
    )


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {"llama": tiny_folder, "gpt2": write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")}


@pytest.mark.parametrize("name", METHODS)
def test_the_size_is_that_of_the_file_that_is_written(folders: Mapping[str, Path], tmp_path: Path, name: str) -> None:
    method, folder = METHODS[name], folders[name.split(maxsplit=1)[0]]
    path, shapes = NetworkPath(load(folder)), adapter_shapes(method, facts_of(folder))
    assert shapes
    adapter = adapter_on(path, method)
    write_peft(adapter, tmp_path / "ours", base_model="tiny", linears=path.linears)
    with safe_open(tmp_path / "ours" / WEIGHTS, "pt") as written:
        assert {tensor: tuple(written.get_slice(tensor).get_shape()) for tensor in written.keys()} == shapes  # noqa: SIM118 - no mapping
    assert file_bytes(shapes) == (tmp_path / "ours" / WEIGHTS).stat().st_size
    assert parameters_of(shapes) == adapter.parameters
    if method.bias is LoraBias.NONE:
        with quiet_peft():
            peft_on(path, method).save_pretrained(tmp_path / "theirs")
        assert file_bytes(shapes) == (tmp_path / "theirs" / WEIGHTS).stat().st_size


def test_a_model_in_several_files_is_known_as_if_it_were_in_one(folders: Mapping[str, Path], tmp_path: Path) -> None:
    split = write_tiny_gpt2(tmp_path / "split", max_shard_size="40KB")
    assert len(list(split.glob("*.safetensors"))) > 2
    assert facts_of(split).tensors == facts_of(folders["gpt2"]).tensors


def test_pissa_ends_with_no_more_than_what_is_foretold(folders: Mapping[str, Path], tmp_path: Path) -> None:
    method, path = LoraMethod(lora_rank=4, init=LoraInit.PISSA), NetworkPath(load(folders["llama"]))
    adapter = adapter_on(path, method)
    # A change in every direction leaves nothing to cut off.
    disturb(adapter)
    plain, _ranks = plain_lora(adapter)
    write_peft(plain, tmp_path, base_model="tiny", linears=path.linears)
    shapes = adapter_shapes(method, facts_of(folders["llama"]))
    assert shapes
    assert file_bytes(shapes) == (tmp_path / WEIGHTS).stat().st_size


@pytest.mark.parametrize(
    "key",
    [
        "q_proj", "layers.0.self_attn.q_proj", r"layers.\d+.mlp.(up_proj|down_proj)", "^layers.0.self_attn.q_proj",
        "^model.layers.1.mlp.up_proj", "(0|1).self_attn.k_proj",
    ],
)  # fmt: skip
def test_a_key_names_the_layers_that_the_engine_gives_its_rank(folders: Mapping[str, Path], key: str) -> None:
    linears = NetworkPath(load(folders["llama"])).linears
    found, rank_of = read_key(key), pattern_reader({key: 1}, 0)
    assert found
    assert {name for name in linears if found.names(name)} == {name for name in linears if rank_of(name)}


def test_embeddings_and_the_head_are_not_adapted() -> None:
    facts = facts_with(
        {
            "model.embed_tokens.weight": (128, 64), "model.layers.0.q_proj.weight": (64, 64),
            "model.layers.1.q_proj.weight": (32, 64), "lm_head.weight": (128, 64),
        }
    )  # fmt: skip
    shapes = adapter_shapes(LoraMethod(lora_rank=8), facts)
    assert shapes
    # Rank 8 times 64 + 64, and times 32 + 64.
    assert parameters_of(shapes) == 8 * (128 + 96)
    assert shapes["base_model.model.model.layers.1.q_proj.lora_B.weight"] == (32, 8)


@pytest.mark.parametrize(
    ("strange", "is_known"),
    [
        ({"model.layers.0.mlp.experts.1.up_proj.weight": (64, 64)}, False),
        ({"model.layers.0.mlp.experts.gate_up_proj": (4, 64, 64)}, False),
        ({"model.decoder.project_in.weight": (64, 64)}, False),
        ({"model.norm.bias": (64,), "transformer.wpe.weight": (64, 64)}, True),
    ],
)
def test_layers_that_files_do_not_tell_of_are_not_guessed(
    *, strange: dict[str, tuple[int, ...]], is_known: bool
) -> None:
    facts = facts_with({"model.layers.0.self_attn.q_proj.weight": (64, 64)} | strange)
    assert (adapter_shapes(LoraMethod(), facts) is not None) is is_known
    # What is named and known is not in doubt for what stands beside it.
    assert adapter_shapes(LoraMethod(target_modules=("q_proj",)), facts) is not None


def test_without_shapes_nothing_is_said(folders: Mapping[str, Path]) -> None:
    facts = facts_of(folders["llama"]).model_copy(update={"tensors": ()})
    assert adapter_shapes(LoraMethod(), facts) is None
