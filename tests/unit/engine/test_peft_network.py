"""peft puts finished adapters on the base, and leaves it as it was."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.base_model import BaseModel
from engine.failures import BadData
from engine.peft_network import stored_adapter_on

IDS = torch.tensor([[1, 40, 41, 42]])


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, use_cache=False).logits
    return found


@pytest.fixture
def stored(tiny_folder: Path, tmp_path: Path) -> Path:
    """An adapter that peft itself made and saved, on a base with biases of its own where it trains them."""
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, local_files_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        network = get_peft_model(plain, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_dora=True))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    network.save_pretrained(tmp_path / "adapter")
    torch.save(logits(network), tmp_path / "logits.pt")
    return tmp_path / "adapter"


def test_a_stored_adapter_computes_as_it_did_and_the_base_is_bare_afterwards(
    base: BaseModel, stored: Path, tmp_path: Path
) -> None:
    before, names = logits(base.network), list(base.network.state_dict())
    expected = torch.load(tmp_path / "logits.pt")
    with stored_adapter_on(base, stored) as network:
        torch.testing.assert_close(logits(network), expected)
        assert not torch.allclose(expected, before)
    assert list(base.network.state_dict()) == names
    assert torch.equal(logits(base.network), before)


@pytest.mark.parametrize("damage", ["rank", "no weights", "no configuration", "lacking a tensor"])
def test_an_adapter_that_does_not_fit_is_refused(damage: str, base: BaseModel, stored: Path) -> None:
    config = json.loads((stored / "adapter_config.json").read_text())
    if damage == "rank":
        (stored / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    elif damage == "no weights":
        (stored / "adapter_model.safetensors").write_bytes(b"none")
    elif damage == "no configuration":
        (stored / "adapter_config.json").unlink()
    else:
        weights = load_file(stored / "adapter_model.safetensors")
        weights.popitem()
        save_file(weights, stored / "adapter_model.safetensors")
    before, names = logits(base.network), list(base.network.state_dict())
    with pytest.raises(BadData), stored_adapter_on(base, stored):
        pass
    assert list(base.network.state_dict()) == names
    assert torch.equal(logits(base.network), before)
