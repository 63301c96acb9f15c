"""What MFU counts: the weights that transformers' own network multiplies by."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from benchmarks.flops import DecoderWeights


def linear_weights(config: object) -> tuple[int, int]:
    """Of the linear modules but the head, and of the head; counted on a network without memory."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    head = network.get_output_embeddings()
    modules = [module for module in network.modules() if isinstance(module, nn.Linear) and module is not head]
    return sum(module.weight.numel() for module in modules), head.weight.numel()


@pytest.mark.model
def test_the_base_models_weights_are_those_of_its_network(smollm2_folder: Path) -> None:
    weights = DecoderWeights.read(smollm2_folder)
    assert (weights.linear, weights.head) == linear_weights(AutoConfig.from_pretrained(smollm2_folder))
    # Two tokens, one supervised; forward and the inputs' gradient, a multiplication and an addition each.
    assert weights.needed(2, 1) == 4 * (2 * weights.linear + weights.head)


@pytest.mark.parametrize("head_dim", [None, 24])
def test_heads_of_any_width_and_number_are_counted(tmp_path: Path, head_dim: int | None) -> None:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
    )
    config.save_pretrained(tmp_path)
    weights = DecoderWeights.read(tmp_path)
    assert (weights.linear, weights.head) == linear_weights(config)
