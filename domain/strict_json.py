"""JSON as RFC 8259 has it, and no further: the standard parser's leniencies are refused by name.

Refused: NaN, Infinity and numbers beyond a double; duplicate keys (smuggling: two parsers, two meanings); more than
32 levels; a byte order mark; invalid UTF-8; NUL and lone surrogates in strings, which PostgreSQL cannot store.
"""

import json
import math
from typing import Any, NoReturn

from domain.refusals import (
    ByteOrderMark,
    ControlCharacter,
    DuplicateKey,
    InvalidJson,
    InvalidUtf8,
    NotFinite,
    TooDeep,
)

MAX_DEPTH = 32

# Far above MAX_DEPTH and far below the interpreter's recursion limit: the parser itself must not run out of stack.
_MAX_OPEN_BRACKETS = 256
_BOM = b"\xef\xbb\xbf"


def parse(content: bytes, *, param: str | None = None) -> Any:
    """The value of one JSON text. Raises the refusal that names what is wrong; `param` says where."""
    if content.startswith(_BOM):
        raise ByteOrderMark("The text begins with a byte order mark.", param=param)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidUtf8(f"Not valid UTF-8 at byte {error.start}.", param=param) from None
    _check_nesting(text, param)
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, param),
            parse_constant=lambda name: _refuse_constant(name, param),
            parse_float=lambda digits: _finite(digits, param),
            parse_int=lambda digits: _bounded_int(digits, param),
        )
    except json.JSONDecodeError as error:
        raise InvalidJson(f"Not valid JSON at character {error.pos}: {error.msg}.", param=param) from None
    _check_values(value, param, depth=1)
    return value


def _check_nesting(text: str, param: str | None) -> None:
    depth, in_string, escaped = 0, False, False
    if text.count("[") + text.count("{") <= _MAX_OPEN_BRACKETS:
        return
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise TooDeep(f"Nested deeper than {MAX_DEPTH} levels.", param=param)
        elif character in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]], param: str | None) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DuplicateKey("A key stands twice in one object.", param=param)
    return found


def _refuse_constant(name: str, param: str | None) -> NoReturn:
    raise NotFinite(f"{name} is not a JSON number.", param=param)


def _finite(digits: str, param: str | None) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotFinite("A number is too large for a double.", param=param)
    return value


def _bounded_int(digits: str, param: str | None) -> int:
    # 2**63 has 19 digits: longer ones fit no column and take quadratic time to parse.
    if len(digits) > 19:  # noqa: PLR2004 - explained above
        raise NotFinite("An integer is too large.", param=param)
    return int(digits)


def _check_values(value: Any, param: str | None, *, depth: int) -> None:
    if depth > MAX_DEPTH + 1:
        raise TooDeep(f"Nested deeper than {MAX_DEPTH} levels.", param=param)
    if isinstance(value, str):
        _check_text(value, param)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, param)
            _check_values(item, param, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, param, depth=depth + 1)


def _check_text(text: str, param: str | None) -> None:
    if "\x00" in text:
        raise ControlCharacter("A string contains the character NUL.", param=param)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidUtf8("A string contains half of a surrogate pair.", param=param)
