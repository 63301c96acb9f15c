"""Canonical bytes: as RFC 8785 prints its examples, and the fast way writes what its library writes."""

import json
import random
from typing import Any

import pytest
import rfc8785

from evidence.canonical import NotCanonical, canonical


def test_the_example_of_the_rfc_comes_out_as_the_rfc_has_it() -> None:
    # RFC 8785, section 3.2.2 and 3.2.3.
    said = json.loads(r"""{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]
    }""")
    assert (
        canonical(said)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_keys_are_in_the_order_of_the_rfc() -> None:
    # RFC 8785, section 3.2.3: by UTF-16 code units, so that a character beyond the first plane comes before U+FB33.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = list(json.loads(canonical(dict.fromkeys(keys, 0))))
    assert order == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def _drawn(chance: random.Random, depth: int) -> Any:
    kinds = ["text", "number", "constant"] + (["list", "object"] if depth else [])
    match chance.choice(kinds):
        case "text":
            return "".join(
                chr(chance.choice((chance.randrange(0x20), chance.randrange(0x20, 0xD800)))) for _ in range(4)
            )
        case "number":
            return chance.choice((chance.randrange(-(2**53) + 1, 2**53), chance.randrange(10)))
        case "constant":
            return chance.choice((None, True, False))
        case "list":
            return [_drawn(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {f"k{chance.randrange(99)}\n": _drawn(chance, depth - 1) for _ in range(chance.randrange(5))}


def test_the_fast_way_writes_what_the_library_writes() -> None:
    chance = random.Random(8785)
    for _ in range(2000):
        value = _drawn(chance, 3)
        assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf"), "\ud800", {"a": ["\udfff"]}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)
