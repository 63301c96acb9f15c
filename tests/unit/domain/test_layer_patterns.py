import itertools
import re

import pytest

from domain.layer_patterns import MAX_KEY_CHARACTERS, read_key

LINEARS = [
    f"model.layers.{number}.{module}"
    for number in (0, 1, 10)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.experts.1.up_proj")
]
KEYS = [
    "q_proj",
    "self_attn.q_proj",
    r"self_attn\.(q_proj|k_proj)",
    "layers.0.self_attn.q_proj",
    r"layers\.(1|10)\.self_attn\.q_proj",
    r"layers.\d+.mlp.up_proj",
    r"experts.\d+.up_proj",
    "up_proj",
    "^model.layers.1.self_attn.k_proj",
    "^layers.1.self_attn.k_proj",
    "^q_proj",
    r"1.up_proj",
]


def as_peft_matches(key: str, linear: str) -> bool:
    """`get_pattern_key` of peft/utils/other.py."""
    return re.match(rf"(.*\.)?({key})$", linear) is not None


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(KEYS, 2)])
def test_two_keys_that_match_a_layer_in_peft_are_seen_to_meet(one: str, other: str) -> None:
    read_one, read_other = read_key(one), read_key(other)
    assert read_one
    assert read_other
    assert read_one.meets(read_other) == read_other.meets(read_one)
    if any(as_peft_matches(one, linear) and as_peft_matches(other, linear) for linear in LINEARS):
        assert read_one.meets(read_other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("q_proj", "k_proj"),
        ("layers.0.mlp.up_proj", r"layers.(1|10).mlp.up_proj"),
        ("self_attn.q_proj", "cross_attn.q_proj"),
        (r"experts.\d+.up_proj", "mlp.up_proj"),
        ("^q_proj", "self_attn.q_proj"),
    ],
)
def test_keys_for_different_layers_do_not_meet(one: str, other: str) -> None:
    read_one, read_other = read_key(one), read_key(other)
    assert read_one
    assert read_other
    assert not read_one.meets(read_other)


@pytest.mark.parametrize(
    "key",
    [
        "", ".", "q_proj.", ".q_proj", "q proj", "q_proj\n", "(q_proj", "q_proj|k_proj", "(q_proj|)", "()",
        "[01].q_proj", ".*q_proj", "(a+)+$", "(a|a)*b", r"layers\.\d*\.q", r"\w+", "q_proj$", "((a|b)|c)",
        "a" * (MAX_KEY_CHARACTERS + 1), "(?:a)", r"(\d+|a)", "^", "é_proj",
    ],
)  # fmt: skip
def test_what_could_be_slow_or_ambiguous_is_no_key(key: str) -> None:
    assert read_key(key) is None


def test_a_key_says_which_modules_and_layers_it_names() -> None:
    key = read_key(r"layers\.(3|4)\.mlp.experts.9.(up_proj|down_proj)")
    assert key
    assert (key.modules, key.layer_numbers) == ({"up_proj", "down_proj"}, {3, 4})
    assert read_key(r"^transformer.h.7.attn.c_attn").layer_numbers == {7}  # type: ignore[union-attr]
    assert read_key(r"layers.\d+").modules == frozenset()  # type: ignore[union-attr]
