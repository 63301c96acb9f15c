import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from domain.runs import LoraMethod
from engine.adapters import Adapter, adapter_on, export_adapter, stored_adapter_on
from engine.base_model import BaseModel
from engine.failures import BadData
from engine.randomness import seed_everything

METHOD = LoraMethod(lora_rank=4, alpha=6.5, use_rslora=True)
IDS = torch.tensor([[1, 40, 41, 42]])


def disturb(adapter: Adapter) -> None:
    with torch.no_grad():
        for weight in adapter.parameters.values():
            weight.normal_(std=0.1)


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, use_cache=False).logits
    return found


def test_peft_loads_the_export_and_computes_the_same(base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    with adapter_on(base, METHOD) as adapter:
        disturb(adapter)
        export_adapter(adapter, tmp_path, base_model="tiny")
        ours = logits(adapter.network.eval())
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, local_files_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        loaded = PeftModel.from_pretrained(plain, tmp_path, local_files_only=True).eval()
    torch.testing.assert_close(logits(loaded), ours)


def test_the_export_is_two_files_that_name_the_base_and_no_path(base: BaseModel, tmp_path: Path) -> None:
    with adapter_on(base, METHOD) as adapter:
        export_adapter(adapter, tmp_path, base_model="tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["r"] == 4


def test_equal_seeds_give_equal_bytes(base: BaseModel, tmp_path: Path) -> None:
    exported = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seed_everything(seed)
        with adapter_on(base, METHOD) as adapter:
            export_adapter(adapter, tmp_path / name, base_model="tiny")
        exported.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert exported[0] == exported[1] != exported[2]


def test_the_base_is_bare_and_unchanged_afterwards(base: BaseModel) -> None:
    before, names = logits(base.network), list(base.network.state_dict())
    with adapter_on(base, METHOD) as adapter:
        disturb(adapter)
        assert not torch.equal(logits(base.network), before)
    assert list(base.network.state_dict()) == names
    assert torch.equal(logits(base.network), before)


def test_masters_are_fp32_on_a_bf16_base_and_nothing_else_is_trained(base: BaseModel) -> None:
    base.network.to(torch.bfloat16)
    with adapter_on(base, METHOD) as adapter:
        assert {weight.dtype for weight in adapter.parameters.values()} == {torch.float32}
        assert all("lora_" in name for name in adapter.parameters)
        # Seven linear layers in each of two blocks, an A and a B for each; not the output head.
        assert len(adapter.parameters) == 7 * 2 * 2


def test_a_stored_adapter_computes_as_it_did(base: BaseModel, tmp_path: Path) -> None:
    with adapter_on(base, METHOD) as adapter:
        disturb(adapter)
        export_adapter(adapter, tmp_path, base_model="tiny")
        expected = logits(adapter.network.eval())
    with stored_adapter_on(base, tmp_path) as stored:
        torch.testing.assert_close(logits(stored.network.eval()), expected, rtol=0, atol=0)


def test_an_adapter_that_does_not_fit_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with adapter_on(base, METHOD) as adapter:
        export_adapter(adapter, tmp_path, base_model="tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(BadData), stored_adapter_on(base, tmp_path):
        pass


def test_unknown_target_modules_are_refused(base: BaseModel) -> None:
    with pytest.raises(BadData), adapter_on(base, LoraMethod(target_modules=("q_porj",))):
        pass
