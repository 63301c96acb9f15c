"""What vLLM refuses to load. Expected answers are those of its own checks, written down from its source."""

import pytest

from domain.base_models import BaseModelFacts, TensorGroup
from domain.runs import LoraBias, LoraInit, LoraMethod
from domain.servability import AdapterTraits, Servers, VllmLimits, refusals

FACTS = BaseModelFacts(model_type="llama", hidden_size=64, num_hidden_layers=2, max_position_embeddings=128)
WITH_BIASES = FACTS.model_copy(
    update={"tensors": (TensorGroup(name="model.layers.*.self_attn.q_proj.bias", shape=(64,), numbers=(0, 1)),)}
)
WITHOUT_BIASES = FACTS.model_copy(
    update={"tensors": (TensorGroup(name="model.layers.*.self_attn.q_proj.weight", shape=(64, 64), numbers=(0, 1)),)}
)
DEFAULT = Servers(vllm=VllmLimits())

LOADED_INITS = (True, False, "gaussian", "eva", "orthogonal", "lora_ga")
# vLLM 0.33.0 at its default of --max-lora-rank 16: a configuration, and whether it is loaded.
CONFIGS = [
    ({"r": 16}, True),
    ({"r": 12}, True),
    ({"r": 17}, False),
    ({"r": 8, "rank_pattern": {"q_proj": 16}}, True),
    ({"r": 8, "rank_pattern": {"q_proj": 17}}, False),
    ({"r": 8, "use_rslora": True, "alpha_pattern": {"q_proj": 4}}, True),
    ({"r": 8, "use_dora": True}, False),
    *[({"r": 8, "init_lora_weights": init}, True) for init in LOADED_INITS],
    *[({"r": 8, "init_lora_weights": init}, False) for init in ("pissa", "pissa_niter_4", "olora", "corda", "loftq")],
    ({"r": 8, "bias": "lora_only"}, False),
    ({"r": 8, "bias": "all"}, False),
    ({"r": 8, "lora_bias": True}, False),
    ({"r": 8, "lora_bias": False, "layer_replication": None, "alora_invocation_tokens": None}, True),
    ({"r": 8, "modules_to_save": ["classifier", "score"]}, True),
    ({"r": 8, "modules_to_save": ["lm_head"]}, False),
    ({"r": 8, "modules_to_save": ["score", "embed_tokens"]}, False),
    ({"r": 8, "layer_replication": [[0, 2]]}, False),
    ({"r": 8, "alora_invocation_tokens": [1, 2]}, False),
    ({"r": 8, "use_qalora": True}, False),
    ({"r": 8, "use_bdlora": {"nblocks": 2}}, False),
    ({"r": 8, "trainable_token_indices": [1]}, True),
    # Not looked at by its validator: its loader stops at the names of the tensors.
    ({"r": 8, "peft_type": "ADALORA"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("config", "loads"), CONFIGS, ids=[str(config) for config, _ in CONFIGS])
def test_a_configuration_is_loaded_or_refused_as_vllm_does(config: dict[str, object], *, loads: bool) -> None:
    traits = AdapterTraits.of_config({"peft_type": "LORA", "lora_alpha": 16, "target_modules": ["q_proj"]} | config)
    assert (list(refusals(traits, DEFAULT)) == []) is loads


def test_every_reason_is_told_and_nothing_is_asked_of_an_engine_that_is_not_named() -> None:
    traits = AdapterTraits.of_config(
        {"r": 64, "peft_type": "LORA", "use_dora": True, "bias": "all", "modules_to_save": ["lm_head"]}
    )
    told = [each.message for each in refusals(traits, DEFAULT)]
    assert len(told) == 4
    assert told[0] == "vLLM loads ranks to 16, and one is up to 64."
    assert len(list(refusals(traits, Servers(vllm=VllmLimits(max_lora_rank=64))))) == 3
    assert list(refusals(traits, Servers())) == []


METHODS = [
    (LoraMethod(lora_rank=8), WITH_BIASES, 8, "none"),
    (LoraMethod(lora_rank=8, rank_pattern={"q_proj": 32}), WITH_BIASES, 32, "none"),
    # PiSSA's start is put beside what was learned: up to twice the rank.
    (LoraMethod(lora_rank=8, init=LoraInit.PISSA), WITH_BIASES, 16, "none"),
    (LoraMethod(lora_rank=8, init=LoraInit.EVA), WITH_BIASES, 8, "none"),
    (LoraMethod(lora_rank=8, bias=LoraBias.ALL), WITH_BIASES, 8, "all"),
    (LoraMethod(lora_rank=8, bias=LoraBias.ALL), WITHOUT_BIASES, 8, "none"),
    (LoraMethod(lora_rank=8, bias=LoraBias.ALL), FACTS, 8, "all"),
]


@pytest.mark.parametrize(("method", "facts", "rank", "bias"), METHODS)
def test_a_method_tells_what_its_adapter_will_be(
    method: LoraMethod, facts: BaseModelFacts, rank: int, bias: str
) -> None:
    traits = AdapterTraits.of_method(method, facts)
    assert (traits.rank, traits.bias, traits.init) == (rank, bias, True)
