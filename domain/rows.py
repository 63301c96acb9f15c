"""The rows of a training file: JSON Lines, one conversation a line.

    {"messages": [{"role": "system" | "user" | "assistant", "content": "…", "weight": 0 | 1}, …], "choices": ["…", …]}

`weight` is an assistant message's, 0 leaves it out of the loss. `choices` (ours) lists the answers an evaluation
compares by likelihood; exactly one of them, or one and prefixes of it, begins the last assistant message.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from domain import strict_json
from domain.refusals import (
    BadMessage,
    ExpectedJsonl,
    FileEmpty,
    Invalid,
    LineTooLong,
    NotJsonl,
    Refusal,
    TooManyRows,
    UnknownField,
)

MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 5_000_000
MAX_PROBLEMS = 100
MAX_CHOICES = 1000

_ROLES = ("system", "user", "assistant")
_BOM = b"\xef\xbb\xbf"
# zip (torch .pt), pickle protocol 2 to 5, gzip, PNG, PDF: what people upload by mistake or by intent.
_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"\x89PNG", b"%PDF")


@dataclass(frozen=True)
class RowsReport:
    """What was counted in a file whose every row is well-formed."""

    rows: int
    duplicate_rows: int
    rows_with_choices: int


def check_rows(stream: BinaryIO, filename: str) -> RowsReport:
    """Read a whole file, a line at a time, in memory bounded by the longest allowed line (and 16 bytes a row).

    Raises the refusal of the first bad line, with `param` = `filename:line` and up to 100 further ones in `details`.
    """
    problems: list[Refusal] = []
    seen: set[bytes] = set()
    rows = duplicates = with_choices = 0
    for number, line in _lines(stream, filename):
        try:
            row = strict_json.parse(line, param=f"{filename}:{number}")
            check_row(row, param=f"{filename}:{number}")
        except Refusal as refusal:
            problems.append(refusal)
            if len(problems) > MAX_PROBLEMS:
                break
            continue
        rows += 1
        with_choices += "choices" in row
        fingerprint = hashlib.blake2b(line, digest_size=8).digest()
        duplicates += fingerprint in seen
        seen.add(fingerprint)
        if rows > MAX_ROWS:
            raise TooManyRows(f"More than {MAX_ROWS} rows.", param=filename)
    if problems:
        raise _first_of(problems)
    if rows == 0:
        raise FileEmpty("The file has no rows.", param=filename)
    return RowsReport(rows=rows, duplicate_rows=duplicates, rows_with_choices=with_choices)


def _first_of(problems: list[Refusal]) -> Refusal:
    first = problems[0]
    details = tuple({"message": p.message, "param": p.param, "code": p.code} for p in problems[:MAX_PROBLEMS])
    return type(first)(first.message, param=first.param, details=details)


def _lines(stream: BinaryIO, filename: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    # A line break of two bytes, CRLF, does not count.
    while read := stream.readline(MAX_LINE_BYTES + 2):
        number += 1
        line = read.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(_BOM)
            _check_beginning(line, filename)
        if len(line) > MAX_LINE_BYTES:
            raise LineTooLong(f"Longer than {MAX_LINE_BYTES} bytes.", param=f"{filename}:{number}")
        if line.strip():
            yield number, line


def _check_beginning(line: bytes, filename: str) -> None:
    if line.startswith(_MAGIC):
        raise NotJsonl("This is a binary file, not JSON Lines.", param=filename)
    if line.lstrip().startswith(b"["):
        raise ExpectedJsonl("Expected JSON Lines, one object a line; this is a JSON array.", param=f"{filename}:1")


def check_row(row: Any, *, param: str) -> None:
    """Raise the refusal of the first thing wrong with one parsed row."""
    if not isinstance(row, dict):
        raise ExpectedJsonl("Expected an object.", param=param)
    if unknown := sorted(set(row) - {"messages", "choices"}):
        raise UnknownField(f"Unknown field of a row, the first being {_shown(unknown[0])}.", param=param)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadMessage("`messages` must be a list of at least one message.", param=param)
    for place, message in enumerate(messages):
        _check_message(message, place, param)
    if not any(message["role"] == "assistant" and message.get("weight", 1) == 1 for message in messages):
        raise BadMessage("No assistant message to learn from.", param=param)
    if "choices" in row:
        _check_choices(row["choices"], messages, param)


def _check_message(message: Any, place: int, param: str) -> None:
    where = f"Message {place}"
    if not isinstance(message, dict):
        raise BadMessage(f"{where} is not an object.", param=param)
    if unknown := sorted(set(message) - {"role", "content", "weight"}):
        raise BadMessage(f"{where} has an unknown field, the first being {_shown(unknown[0])}.", param=param)
    if message.get("role") not in _ROLES:
        raise BadMessage(f"{where}: `role` must be one of {', '.join(_ROLES)}.", param=param)
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise BadMessage(f"{where}: `content` must be a string that is not empty.", param=param)
    if message["role"] == "system" and place > 0:
        raise BadMessage(f"{where}: a system message may only come first.", param=param)
    if "weight" in message:
        _check_weight(message, where, param)


def _check_weight(message: dict[str, Any], where: str, param: str) -> None:
    weight = message["weight"]
    if message["role"] != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
        raise BadMessage(f"{where}: `weight` is 0 or 1, and an assistant message's only.", param=param)


def _check_choices(choices: Any, messages: list[dict[str, Any]], param: str) -> None:
    few, many = 2, MAX_CHOICES
    if not isinstance(choices, list) or not few <= len(choices) <= many:
        raise Invalid(f"`choices` must list {few} to {many} answers.", param=param)
    if not all(isinstance(choice, str) and choice for choice in choices) or len(set(choices)) != len(choices):
        raise Invalid("`choices` must be different strings that are not empty.", param=param)
    answer = messages[-1]
    if answer["role"] != "assistant" or not any(answer["content"].startswith(choice) for choice in choices):
        raise Invalid("None of `choices` begins the last message, which must be the assistant's.", param=param)


def _shown(field: str) -> str:
    """A field's name as far as it may be shown: it is not content, but a caller chose it."""
    return repr(field[:40])
