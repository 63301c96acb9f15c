"""What passes cost, and the real base model."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from domain.plans import Precision, Quantisation
from domain.runs import LoraMethod
from engine.general.choice import logits
from engine.general.cost import KeptBytes
from engine.general.layout import Layout, packed
from engine.general.path import GeneralPath
from engine.stream import Part, pack
from tests.unit.engine.general.small_models import CONFIGS, CPU, Twins, random_network, rows


@pytest.mark.parametrize("lengths", [(300,), (20,) * 15, (40, 200, 5)], ids=["long", "short", "mixed"])
@pytest.mark.parametrize("recompute", ["keep", "recompute"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_the_estimate_of_memory_covers_what_a_pass_keeps(
    architecture: str,
    recompute: str,
    lengths: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The logits' fixed share would hide all else of a model this small.
    monkeypatch.setattr("engine.general.path.PORTION_LOGITS", 0)
    config = CONFIGS[architecture]
    path = GeneralPath(random_network(config), CPU, activation_checkpointing=recompute == "recompute")
    adapter = Twins(config, LoraMethod(target_modules=("q_proj", "v_proj", "c_attn")), path=path).adapter
    with KeptBytes(path.network) as kept:
        path.gradients([Part(adapter, rows(3, lengths))])
    # What is recomputed is kept out of the count's sight.
    if recompute == "keep":
        assert kept.total > 0.3 * path.activation_bytes(sum(lengths), max(lengths))
    assert kept.total <= path.activation_bytes(sum(lengths), max(lengths))


def test_recomputing_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    # As above: of the logits there are as many either way.
    monkeypatch.setattr("engine.general.path.PORTION_LOGITS", 0)
    found = []
    for activation_checkpointing in (False, True):
        path = GeneralPath(random_network(CONFIGS["llama"]), CPU, activation_checkpointing=activation_checkpointing)
        found.append(path.activation_bytes(10_000, 100))
    assert found[1] < 0.7 * found[0]


@pytest.mark.model
def test_the_real_model_packs_and_has_the_logits_it_has_alone(smollm2_folder: Path) -> None:
    path = GeneralPath.load(
        smollm2_folder, Precision.FP32, CPU, quantisation=Quantisation.NONE, activation_checkpointing=False
    )
    assert path.choice.layout is Layout.PACKED
    assert path.choice.plain_head
    documents = rows(3, (5, 40, 17))
    in_order = sorted(documents, key=lambda row: len(row.ids))
    inputs = packed(pack([Part(None, documents)], CPU))
    with torch.no_grad():
        path._attended.documents = inputs.documents  # noqa: SLF001
        found = logits(path.network, inputs)[0]
        path._attended.documents = None  # noqa: SLF001
        path.network.set_attn_implementation("sdpa")
        alone = [path.network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0] for row in in_order]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-3)
