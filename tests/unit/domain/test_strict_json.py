import pytest

from domain import strict_json
from domain.refusals import Refusal

REFUSED = [
    (b"\xef\xbb\xbf1", "bom"),
    (b'"\xff"', "invalid_utf8"),
    (b'"\xed\xa0\x80"', "invalid_utf8"),
    (b'"\\udc00"', "invalid_utf8"),
    (b'"\\u0000"', "control_character"),
    (b'{"\\u0000":1}', "control_character"),
    (b'"\x00"', "invalid_json"),
    (b"NaN", "not_finite"),
    (b"-Infinity", "not_finite"),
    (b"1e309", "not_finite"),
    (b"-1e309", "not_finite"),
    (b"9" * 20, "not_finite"),
    (b"9" * 100_000, "not_finite"),
    (b'{"a":1,"a":1}', "duplicate_key"),
    (b'[{"a":1,"\\u0061":1}]', "duplicate_key"),
    (b"", "invalid_json"),
    (b"01", "invalid_json"),
    (b"'a'", "invalid_json"),
    (b"[1,]", "invalid_json"),
    (b"// a\n1", "invalid_json"),
    (b"1 2", "invalid_json"),
    (b"[" * 33 + b"]" * 33, "too_deep"),
    (b'{"a":' * 33 + b"1" + b"}" * 33, "too_deep"),
    (b"[" * 100_000, "too_deep"),
    (b'["' + b"[" * 1000 + b'"' + b",[" * 40 + b"]" * 41, "too_deep"),
]


@pytest.mark.parametrize(("content", "code"), REFUSED, ids=[repr(content[:20]) for content, _ in REFUSED])
def test_what_is_not_strict_json_is_refused_by_name(content: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        strict_json.parse(content)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b" 1 ", 1),
        (b"-0", 0),
        (b"1e308", 1e308),
        (b"1e-400", 0.0),
        (b"9223372036854775807", 2**63 - 1),
        (b'{"a":[true,null,"\\ud83d\\ude00"]}', {"a": [True, None, "😀"]}),
        (b"[" * 32 + b"]" * 32, None),
        (b'"' + b"[{" * 1000 + b'"', "[{" * 1000),
        (b'"\\"' + b"[" * 300 + b'"', '"' + "[" * 300),
        ("[" + ",".join(["[]"] * 300) + "]", [[]] * 300),
    ],
)
def test_json_is_parsed(content: bytes | str, value: object) -> None:
    parsed = strict_json.parse(content.encode() if isinstance(content, str) else content)
    assert value is None or parsed == value


def test_a_body_names_its_field_and_a_line_its_place() -> None:
    for param, code, expected in ((None, "not_finite", "a.1.b"), ("rows.jsonl:7", "invalid_json", "rows.jsonl:7")):
        with pytest.raises(Refusal) as refused:
            strict_json.parse(b'{"a":[1,{"b":NaN}]}', param=param)
        assert (refused.value.code, refused.value.param) == (code, expected)
