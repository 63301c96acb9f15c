"""Packed documents are what they are alone, and models that cannot be packed are noticed."""

from typing import Any

import pytest
import torch
import transformers

from engine.failures import BadBaseModel
from engine.general import attention
from engine.general.attention import Documents
from engine.general.choice import logits
from engine.general.layout import Layout, packed
from engine.general.path import GeneralPath
from engine.stream import Part, pack
from engine.tokenise import TokenisedRow
from tests.unit.engine.general.small_models import CONFIGS, CPU, SIZES, random_network, rows

BLOOM = transformers.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
FALCON = transformers.FalconConfig(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2
)
LLAMA4 = transformers.Llama4TextConfig(
    **SIZES, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1
)
MAMBA = transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
BERT = transformers.BertConfig(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, is_decoder=False
)


def packed_logits(path: GeneralPath, documents: list[TokenisedRow], *, lengths: tuple[int, ...] | None = None) -> Any:
    """[T, V]. `lengths` lets attention believe in other documents than the stream's."""
    stream = pack([Part(None, documents)], CPU)
    inputs = packed(stream)
    path._attended.documents = Documents.of(lengths or stream.lengths, CPU)  # noqa: SLF001
    with torch.no_grad():
        return logits(path.network, inputs)[0]


def separate_logits(config: Any, documents: list[TokenisedRow]) -> torch.Tensor:
    """[T, V], every document alone through a fresh model's own attention."""
    network = random_network(config)
    in_order = sorted(documents, key=lambda row: (len(row.ids), row.line))
    with torch.no_grad():
        found = [network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0] for row in in_order]
    return torch.cat(found)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_packed_documents_have_the_logits_they_have_alone(architecture: str) -> None:
    config = CONFIGS[architecture]
    path = GeneralPath(random_network(config), CPU)
    found = packed_logits(path, rows(5))
    torch.testing.assert_close(found, separate_logits(config, rows(5)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_documents_that_see_their_neighbours_would_be_noticed(architecture: str) -> None:
    config = CONFIGS[architecture]
    path = GeneralPath(random_network(config), CPU)
    found = packed_logits(path, rows(5), lengths=(5, 9, 14 + 23))
    assert (found - separate_logits(config, rows(5))).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", CONFIGS)
def test_documents_longer_than_a_block_are_attended_to_alike(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 8 tokens: fused attention where it can be used, blocks of queries where it cannot."""
    monkeypatch.setattr(attention, "PLAIN_TOKENS", 8)
    config = CONFIGS[architecture]
    path = GeneralPath(random_network(config), CPU)
    found = packed_logits(path, rows(5))
    torch.testing.assert_close(found, separate_logits(config, rows(5)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", [BLOOM, FALCON, MAMBA, LLAMA4], ids=["bloom", "falcon", "mamba", "llama4"])
def test_models_whose_tokens_mix_outside_the_interface_are_padded_and_right(config: Any) -> None:
    path = GeneralPath(random_network(config), CPU)
    assert path.choice.layout is Layout.PADDED
    together = path.losses([Part(None, rows(5))])
    alone = [path.losses([Part(None, [row])]).sums[0].loss for row in rows(5)]
    assert together.sums[0].loss == pytest.approx(sum(alone), rel=1e-5)
    assert together.computed_tokens == 4 * 23


def test_a_model_that_mixes_tokens_beside_its_attention_is_found_out() -> None:
    """A convolution over the stream, in a model that says its attention goes through the interface."""
    network = random_network(CONFIGS["llama"])

    def mix(_: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + torch.roll(output, 1, dims=1).index_fill(1, torch.tensor([0]), 0.0)

    network.model.layers[0].mlp.register_forward_hook(mix)
    choice = GeneralPath(network, CPU).choice
    assert choice.layout is Layout.PADDED
    assert choice.reason == "documents reach one another"


def test_a_model_with_a_mask_of_its_own_is_padded() -> None:
    config = transformers.LlamaConfig(**SIZES)
    config.layer_types = ["chunked_attention", "full_attention"]
    assert GeneralPath(random_network(config), CPU).choice.layout is Layout.PADDED


def test_a_model_that_sees_what_comes_after_is_refused() -> None:
    with pytest.raises(BadBaseModel, match="not a causal language model"):
        GeneralPath(random_network(BERT), CPU)


def test_documents_of_like_length_share_a_bucket() -> None:
    documents = Documents.of((20, 8, 100, 9, 21), CPU)
    assert documents.buckets == ((2, 9), (2, 21), (1, 100))
    stream = torch.arange(158)
    assert torch.equal(stream[documents.gather_G][documents.back_T], stream)


def test_a_model_s_own_linear_layers_are_adapted_where_they_are_products_and_left_where_not() -> None:
    assert "transformer.h.0.self_attention.query_key_value" in GeneralPath(random_network(FALCON), CPU).linears
    linears = GeneralPath(random_network(LLAMA4), CPU).linears
    assert "model.layers.0.self_attn.q_proj" in linears
    assert not any(name.endswith("router") for name in linears)
