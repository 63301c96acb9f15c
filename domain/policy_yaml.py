"""The YAML of a policy, read strictly: what two readers could take for two different things is refused, with its line.

Refused: tags, which can name Python objects; anchors and aliases, of which a small text unfolds to any size;
directives and further documents; a key that stands twice; a key without a value; numbers that are not finite. Plain
words mean what YAML 1.2 says, so `no` and `12:30` are text, and a number is decimal and without a leading zero.

PyYAML makes events of the text; what they mean is decided here. It builds nothing, and loads nothing.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from domain.refusals import InvalidPolicy

MAX_BYTES = 64 << 10
MAX_DEPTH = 8
# Keys, values and items: reading takes time for each, and no policy that a person reads has as many.
MAX_NODES = 2000
PARAM = "policy"

Path = tuple[str | int, ...]

_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MAX_SHOWN_CHARACTERS = 64


@dataclass(frozen=True)
class PolicyText:
    """What a text says: mappings, lists, text, numbers and booleans; and on which line each key and item begins."""

    value: dict[str, Any]
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of what a path names, or of the innermost thing around it that stands there."""
        known = (path[:length] for length in range(len(path), 0, -1))
        return next((self.lines[each] for each in known if each in self.lines), 1)


def invalid(line: int, message: str) -> InvalidPolicy:
    """The refusal of something on a line."""
    return InvalidPolicy(f"Line {line}: {message}", param=f"{PARAM}:{line}")


def read(content: bytes) -> PolicyText:
    """Read one document, a mapping. Raises InvalidPolicy, which names the line."""
    text = _decoded(content)
    try:
        return _Reader(yaml.SafeLoader(text)).read()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise invalid(line, "There is a character that YAML does not allow.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise invalid(mark.line + 1 if mark else 1, "This is not valid YAML.") from None


def _decoded(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise InvalidPolicy(f"A policy has {MAX_BYTES} bytes at most.", param=PARAM)
    if content.startswith(_BOM):
        raise invalid(1, "The text begins with a byte order mark.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise invalid(content.count(b"\n", 0, error.start) + 1, "This is not valid UTF-8.") from None


@dataclass
class _Reader:
    """Takes events one by one, and gives up at the first that is not wanted: what comes after it is never read."""

    loader: yaml.SafeLoader
    lines: dict[Path, int] = field(default_factory=dict)
    nodes: int = 0
    line: int = 1

    def read(self) -> PolicyText:
        self._next()  # the stream's beginning
        start = self._next()
        if not isinstance(start, DocumentStartEvent):
            raise invalid(1, "The text is empty.")
        if start.version or start.tags:
            raise invalid(self.line, "Directives are not accepted.")
        value = self._node(self._next(), ())
        if not isinstance(value, dict):
            raise invalid(1, "A policy is a mapping of keys to values.")
        if not isinstance(self._next(), DocumentEndEvent) or not isinstance(self._next(), StreamEndEvent):
            raise invalid(self.line, "A second document begins.")
        return PolicyText(value, self.lines)

    def _next(self) -> Event:
        try:
            event: Event = self.loader.get_event()  # type: ignore[no-untyped-call]
        except (ValueError, OverflowError):
            # PyYAML hands \U00110000 and the like to chr(), which knows no such character.
            raise invalid(self.loader.line + 1, "There is an escape of a character that does not exist.") from None
        if event.start_mark is not None:
            self.line = event.start_mark.line + 1
        return event

    def _node(self, event: Event, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise invalid(self.line, f"There are more than {MAX_NODES} keys, values and items.")
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor is not None):
            raise invalid(self.line, "Anchors and aliases are not accepted.")
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if len(path) >= MAX_DEPTH:
            raise invalid(self.line, f"This is nested deeper than {MAX_DEPTH} levels.")
        self._refuse_tag(event)
        return self._mapping(path) if isinstance(event, MappingStartEvent) else self._sequence(path)

    def _refuse_tag(self, event: Event) -> None:
        if getattr(event, "tag", None) is not None:
            raise invalid(self.line, "Tags are not accepted.")

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key, line = self._key(event), self.line
            if key in found:
                raise invalid(line, f"The key {shown(key)} stands twice.")
            self.lines[*path, key] = line
            found[key] = self._node(self._next(), (*path, key))
        return found

    def _key(self, event: Event) -> str:
        if not isinstance(event, ScalarEvent) or event.anchor is not None:
            raise invalid(self.line, "A key is a word: neither a list, nor a mapping, nor an alias.")
        self._refuse_tag(event)
        return self._checked(event.value)

    def _sequence(self, path: Path) -> list[Any]:
        found: list[Any] = []
        for place in itertools.count():
            event = self._next()
            if isinstance(event, SequenceEndEvent):
                break
            self.lines[*path, place] = self.line
            found.append(self._node(event, (*path, place)))
        return found

    def _scalar(self, event: ScalarEvent) -> Any:
        self._refuse_tag(event)
        text = self._checked(event.value)
        if event.style is not None:
            return text
        if text in _NULL:
            raise invalid(self.line, "A value is missing. Leave out what is not to be ruled.")
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NOT_FINITE.fullmatch(text) or (_NUMBER.fullmatch(text) and not math.isfinite(float(text))):
            raise invalid(self.line, "A number must be finite.")
        return float(text) if _NUMBER.fullmatch(text) else text

    def _checked(self, text: str) -> str:
        if _CONTROL.search(text):
            raise invalid(self.line, "There is a control character.")
        return text


def shown(key: str) -> str:
    """A key of the author's invention, at no great length."""
    return f"`{key[:_MAX_SHOWN_CHARACTERS]}`"
