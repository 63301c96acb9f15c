import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists

from domain.runs import LoraMethod
from engine.failures import BadData
from engine.targets import select_sites, shortest_names
from tests.network_path import NetworkPath, load, peft_on, write_tiny_gpt2

LAYERS = [
    f"model.layers.{layer}.{name}"
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
]


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> NetworkPath:
    return NetworkPath(load(tiny_folder))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> NetworkPath:
    return NetworkPath(load(write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")))


def peft_sites(path: NetworkPath, method: LoraMethod) -> dict[str, tuple[int, float]]:
    network = peft_on(path, method).base_model.model
    return {
        name: (module.r["default"], module.scaling["default"])
        for name, module in network.named_modules()
        if isinstance(module, LoraLayer)
    }


@pytest.mark.parametrize(
    "method",
    [
        LoraMethod(),
        LoraMethod(lora_rank=6, alpha=6.5, use_rslora=True),
        LoraMethod(target_modules=("q_proj", "mlp.down_proj", "model.layers.1.self_attn.k_proj")),
        LoraMethod(rank_pattern={"q_proj": 2, r"layers\.1\..*": 4, "k_proj": 3}, alpha_pattern={"down_proj": 3.0}),
        LoraMethod(
            rank_pattern={r"self_attn\.[qk]_proj": 5},
            alpha_pattern={"model.layers.0.mlp.up_proj": 1.5},
            use_rslora=True,
        ),
    ],
)
def test_the_layers_their_ranks_and_scales_are_those_of_peft(llama: NetworkPath, method: LoraMethod) -> None:
    ours = {site.linear: (site.rank, site.scale) for site in select_sites(llama.linears, method)}
    assert ours == peft_sites(llama, method)


def test_a_name_selects_only_whole_parts_of_a_layers_name(gpt2: NetworkPath) -> None:
    method = LoraMethod(target_modules=("c_proj", "h.0.attn.c_attn"), rank_pattern={"attn.c_proj": 2})
    ours = {site.linear: (site.rank, site.scale) for site in select_sites(gpt2.linears, method)}
    assert ours == peft_sites(gpt2, method)
    with pytest.raises(BadData):
        select_sites(gpt2.linears, LoraMethod(target_modules=("proj",)))


def test_sites_stand_in_the_models_order() -> None:
    sites = select_sites(LAYERS, LoraMethod(target_modules=("down_proj", "q_proj")))
    assert [site.linear for site in sites] == [name for name in LAYERS if name.endswith(("q_proj", "down_proj"))]


@pytest.mark.parametrize(
    "method",
    [
        LoraMethod(target_modules=("q_porj",)),
        LoraMethod(target_modules=("q_proj", "lm_head")),
        LoraMethod(target_modules=()),
        LoraMethod(rank_pattern={"v_proj": 4}),
        LoraMethod(target_modules=("q_proj",), alpha_pattern={"o_proj": 4.0}),
        LoraMethod(rank_pattern={"(": 4}),
    ],
)
def test_a_target_or_pattern_that_names_nothing_is_refused(method: LoraMethod) -> None:
    with pytest.raises(BadData):
        select_sites(LAYERS, method)


def test_layers_are_named_by_their_last_parts_where_that_is_exact() -> None:
    assert shortest_names(LAYERS, LAYERS) == ("down_proj", "o_proj", "q_proj", "up_proj")
    gpt2 = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.attn.c_proj", "h.1.mlp.c_proj"]
    assert shortest_names(["h.0.mlp.c_proj", "h.1.mlp.c_proj"], gpt2) == ("mlp.c_proj",)
    assert shortest_names(["h.0.mlp.c_proj", "h.1.mlp.c_proj", "h.1.attn.c_proj"], gpt2) == (
        "1.attn.c_proj",
        "mlp.c_proj",
    )


def test_the_shortest_names_select_the_same_layers_in_peft() -> None:
    chance = random.Random(0)
    for _ in range(50):
        chosen = {name for name in LAYERS if chance.random() < 0.5}
        config = SimpleNamespace(target_modules=list(shortest_names(chosen, LAYERS)))
        assert {name for name in LAYERS if check_target_module_exists(config, name)} == chosen
