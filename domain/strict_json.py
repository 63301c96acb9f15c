"""JSON as RFC 8259 has it, and no further: the standard parser's leniencies are refused by name.

Refused: NaN, Infinity and numbers beyond a double; duplicate keys (smuggling: two parsers, two meanings); more than
32 levels; a byte order mark; invalid UTF-8; NUL and lone surrogates in strings, which PostgreSQL cannot store.
"""

import json
import math
from typing import Any

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
_MAX_INTEGER_CHARACTERS = 19
_MAX_SHOWN_CHARACTERS = 64
_BOM = b"\xef\xbb\xbf"


def parse(content: bytes, *, param: str | None = None) -> Any:
    """The value of one JSON text. Raises the refusal that names what is wrong.

    `param` says where a line of a file stands; without it, as for a request's body, the field is named.
    """
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
            parse_constant=lambda name: _constant(name, param),
            parse_int=bounded_int,
        )
    except json.JSONDecodeError as error:
        raise InvalidJson(f"Not valid JSON at character {error.pos}: {error.msg}.", param=param) from None
    _check_values(value, param, path=())
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
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKey("A key stands twice in one object.", param=param or key[:_MAX_SHOWN_CHARACTERS])
        found[key] = value
    return found


def _constant(name: str, param: str | None) -> float:
    """NaN or an infinity: no JSON in a file's line; in a body, refused later, where its field is known."""
    if param is not None:
        raise InvalidJson(f"{name} is not JSON.", param=param)
    return float(name)


def bounded_int(digits: str) -> int | float:
    """An integer as JSON writes it; infinity where it is beyond all use.

    2**63 has 19 digits: longer ones fit no column, take quadratic time to parse, and from 4300 on Python refuses them.
    """
    return int(digits) if len(digits) <= _MAX_INTEGER_CHARACTERS else math.inf


def _check_values(value: Any, param: str | None, *, path: tuple[str, ...]) -> None:
    if len(path) >= MAX_DEPTH and isinstance(value, dict | list):
        raise TooDeep(f"Nested deeper than {MAX_DEPTH} levels.", param=param)
    where = param or ".".join(path) or None
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotFinite("Not a finite number that fits.", param=where)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, where)
            _check_values(item, param, path=(*path, key[:_MAX_SHOWN_CHARACTERS]))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check_values(item, param, path=(*path, str(place)))


def _check_text(text: str, where: str | None) -> None:
    if "\x00" in text:
        raise ControlCharacter("A string contains the character NUL.", param=where)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidUtf8("A string contains half of a surrogate pair.", param=where)
