import io
import json
from collections.abc import Iterator

import pytest

from domain.refusals import Refusal
from domain.rows import MAX_LINE_BYTES, RowsReport, check_rows

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "red"}


def line(*messages: object, **more: object) -> bytes:
    return json.dumps({"messages": list(messages)} | more).encode() + b"\n"


def check(content: bytes) -> RowsReport:
    return check_rows(io.BytesIO(content), "f")


GOOD = [
    line(USER, ASSISTANT),
    line(ASSISTANT),
    line({"role": "system", "content": "s"}, USER, ASSISTANT, USER, ASSISTANT),
    line(USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1}),
    line(USER, ASSISTANT, choices=["red", "blue"]),
    line(USER, ASSISTANT | {"content": "red, dark"}, choices=["red", "red, dark"]),
]
BAD = [
    (line(), "bad_message"),
    (line("text"), "bad_message"),
    (line(USER), "bad_message"),
    (line(USER, ASSISTANT | {"weight": 0}), "bad_message"),
    (line(USER | {"weight": 1}, ASSISTANT), "bad_message"),
    (line(USER, ASSISTANT | {"weight": True}), "bad_message"),
    (line(USER, ASSISTANT | {"weight": 0.5}), "bad_message"),
    (line(USER, ASSISTANT | {"content": "  "}), "bad_message"),
    (line(USER, ASSISTANT | {"content": ["x"]}), "bad_message"),
    (line(USER, ASSISTANT, {"role": "system", "content": "s"}), "bad_message"),
    (line({"role": ["user"], "content": "a"}, ASSISTANT), "bad_message"),
    (line({"role": {}, "content": "a"}, ASSISTANT), "bad_message"),
    (line({"content": "a"}, ASSISTANT), "bad_message"),
    (b'{"messages":{}}\n', "bad_message"),
    (b'{"messages":null}\n', "bad_message"),
    (b"{}\n", "bad_message"),
    (b"null\n", "expected_jsonl"),
    (b'"text"\n', "expected_jsonl"),
    (line(USER, ASSISTANT, choices=["red"]), "invalid_request"),
    (line(USER, ASSISTANT, choices=["red", "red"]), "invalid_request"),
    (line(USER, ASSISTANT, choices=["blue", "green"]), "invalid_request"),
    (line(USER, ASSISTANT, choices=["red", ""]), "invalid_request"),
    (line(USER, ASSISTANT, choices=["red", 1]), "invalid_request"),
    (line(USER, ASSISTANT, choices=["red", ["x"]]), "invalid_request"),
    (line(USER, ASSISTANT, choices="red"), "invalid_request"),
    (line(ASSISTANT, USER, choices=["red", "blue"]), "invalid_request"),
    (line(USER, ASSISTANT, tools=[]), "unknown_field"),
]


@pytest.mark.parametrize("content", GOOD)
def test_a_good_row_is_counted(content: bytes) -> None:
    assert check(content).rows == 1


@pytest.mark.parametrize(("content", "code"), BAD, ids=[content.decode().strip()[:70] for content, _ in BAD])
def test_a_bad_row_is_refused_with_its_line(content: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        check(GOOD[0] + content)
    assert (refused.value.code, refused.value.param) == (code, "f:2")


def test_rows_choices_and_duplicates_are_counted() -> None:
    assert check(GOOD[0] * 3 + GOOD[4]) == RowsReport(rows=4, duplicate_rows=2, rows_with_choices=1)


class Endless(io.RawIOBase):
    """A line without an end, and how much of it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:] = b"x" * len(buffer)
        self.read_bytes += len(buffer)
        return len(buffer)


def test_a_line_without_an_end_is_refused_after_its_first_mebibyte() -> None:
    endless = Endless()
    with pytest.raises(Refusal) as refused:
        check_rows(io.BufferedReader(endless, 1 << 16), "f")
    assert (refused.value.code, refused.value.param) == ("line_too_long", "f:1")
    assert endless.read_bytes <= MAX_LINE_BYTES + (1 << 17)


def test_the_longest_allowed_line_is_accepted() -> None:
    bare = line(USER, ASSISTANT | {"content": ""})
    longest = line(USER, ASSISTANT | {"content": "x" * (MAX_LINE_BYTES - len(bare) + 1)})
    assert len(longest.rstrip(b"\n")) == MAX_LINE_BYTES
    assert check(longest.rstrip(b"\n")).rows == 1
    # The line's own break does not count.
    assert check(longest + longest.replace(b"\n", b"\r\n")).rows == 2
    with pytest.raises(Refusal):
        check(longest.replace(b"xx", b"xxx", 1))


def test_no_content_is_told() -> None:
    secret = "the patient's name"
    for content in (
        line(USER, {"role": secret, "content": secret}),
        line(USER, ASSISTANT | {"content": "", "weight": 1}),
    ):
        with pytest.raises(Refusal) as refused:
            check(content)
        assert secret not in refused.value.message


def test_memory_does_not_grow_with_the_problems() -> None:
    def lines() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"{}\n"

    with pytest.raises(Refusal) as refused:
        check(b"".join(lines()))
    assert len(refused.value.details) == 100
