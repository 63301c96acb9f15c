"""What peft saves is let in, and what is let in is what peft, and our engine, then load."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.peft_folders import ALLOWED, CONFIG, WEIGHTS, check_file_name, check_folder, read_config, with_base_model
from domain.refusals import Refusal
from domain.runs import LoraBias, LoraMethod
from engine.peft_format import read_adapter
from tests.network_path import NetworkPath, load, loaded_by_peft, logits, peft_on, quiet_peft, write_tiny_gpt2
from tests.unit.engine.test_adapter_sizes import facts_of

METHODS = {
    "llama plain": LoraMethod(lora_rank=4),
    "llama rslora, some layers": LoraMethod(lora_rank=3, alpha=6.0, use_rslora=True, target_modules=("q_proj",)),
    "llama dora": LoraMethod(lora_rank=4, use_dora=True),
    "llama patterns": LoraMethod(lora_rank=4, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 5.0}),
    "gpt2 every bias": LoraMethod(lora_rank=2, bias=LoraBias.ALL, target_modules=("c_attn",)),
}


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"llama": tiny_folder, "gpt2": write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")}


def saved(base: Path, method: LoraMethod, folder: Path) -> Path:
    """A folder as peft leaves it, its weights not zero; named as the registry would name its base."""
    network = peft_on(NetworkPath(load(base)), method)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    with quiet_peft():
        network.save_pretrained(folder)
    (folder / CONFIG).write_bytes(with_base_model((folder / CONFIG).read_bytes(), "tiny"))
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_what_peft_saves_is_let_in_and_loads(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    base = folders[name.split(maxsplit=1)[0]]
    folder = saved(base, METHODS[name], tmp_path)
    assert {path.name for path in folder.iterdir()} - {"README.md"} <= ALLOWED
    config = read_config((folder / CONFIG).read_bytes())
    check_folder(folder, config, facts_of(base))
    assert config.method.lora_rank == METHODS[name].lora_rank
    adapter = read_adapter(folder, NetworkPath(load(base)).linears, torch.device("cpu"))
    assert set(adapter.values) == set(load_file(folder / WEIGHTS))
    plain, adapted = logits(load(base)), logits(loaded_by_peft(base, folder))
    assert (adapted - plain).abs().max() > 1e-3


def test_one_weight_of_peft_s_that_is_no_number_is_found(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = saved(folders["llama"], METHODS["llama plain"], tmp_path)
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[5] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(Refusal) as refused:
        check_folder(folder, read_config((folder / CONFIG).read_bytes()), facts_of(folders["llama"]))
    assert (refused.value.code, refused.value.param) == ("non_finite_weights", name)


def test_every_key_that_peft_writes_is_known(folders: dict[str, Path], tmp_path: Path) -> None:
    # A new release's key would be refused, and so would every adapter that it saved: then the table is to be mended.
    written = json.loads((saved(folders["llama"], METHODS["llama plain"], tmp_path) / CONFIG).read_text())
    assert len(written) > 30
    read_config(json.dumps(written).encode())
    with pytest.raises(Refusal):
        read_config(json.dumps(written | {"of_tomorrow": None}).encode())


def test_a_pickle_beside_the_weights_is_refused_before_it_is_read() -> None:
    with pytest.raises(Refusal) as refused:
        check_file_name("adapter_model.bin")
    assert refused.value.code == "forbidden_file"
