"""Sentences from the templates that Home Assistant publishes for spoken requests.

    turn on [the] (light|lamp) [in] {area}      [optional]  (one|of|these)  {list} or {list:slot}
    <turn> ([the] {name};on)                    <rule>  (in;any;order)

Our own small reader, because the library of these templates (hassil) recognises sentences or lists all of them, which
are millions; the demonstration wants a few of each at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

_CLOSING = {"(": ")", "[": "]", "<": ">", "{": "}"}


@dataclass(frozen=True)
class Text:
    """Words as they stand."""

    words: str


@dataclass(frozen=True)
class Rule:
    """A template that stands elsewhere under this name."""

    name: str


@dataclass(frozen=True)
class SlotOf:
    """A value from a list, kept under the slot's name."""

    list_name: str
    slot: str


@dataclass(frozen=True)
class Sequence:
    """All parts, one after the other."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True)
class Choice:
    """One of the parts."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True)
class AnyOrder:
    """All parts, in any order."""

    parts: "tuple[Part, ...]"


Part = Text | Rule | SlotOf | Sequence | Choice | AnyOrder


@dataclass(frozen=True)
class Spoken:
    """What stands in a list: how it is said and what is meant."""

    said: str
    meant: str | int


def parse(template: str) -> Part:
    """The template as a tree. Raises ValueError where a bracket is not closed."""
    part, end = _group(template, 0, closing="")
    if end != len(template):
        raise ValueError(f"unexpected {template[end]!r} at {end}: {template}")
    return part


def _group(text: str, start: int, closing: str) -> tuple[Part, int]:
    """Everything up to the closing bracket: alternatives by `|`, or parts in any order by `;`."""
    parts: list[Part] = []
    sequence: list[Part] = []
    separator, at = "", start
    while at < len(text) and text[at] != closing:
        if text[at] in "|;":
            separator, at = text[at], at + 1
            parts.append(Sequence(tuple(sequence)))
            sequence = []
        else:
            part, at = _item(text, at)
            sequence.append(part)
    if closing and at == len(text):
        raise ValueError(f"{closing} is missing: {text}")
    parts.append(Sequence(tuple(sequence)))
    return (AnyOrder(tuple(parts)) if separator == ";" else Choice(tuple(parts))), at


def _item(text: str, at: int) -> tuple[Part, int]:
    opening = text[at]
    if opening in ")]>}":
        raise ValueError(f"{opening} closes nothing: {text}")
    if opening in "<{":
        end = text.index(_CLOSING[opening], at)
        name = text[at + 1 : end]
        list_name, _, slot = name.partition(":")
        return (Rule(name) if opening == "<" else SlotOf(list_name, slot or list_name)), end + 1
    if opening in "([":
        inner, end = _group(text, at + 1, _CLOSING[opening])
        return (inner if opening == "(" else Choice((inner, Text("")))), end + 1
    end = at + 1
    while end < len(text) and text[end] not in "<{([|;)]":
        end += 1
    return Text(text[at:end]), end


@dataclass
class Speaker:
    """Says templates at random, the same ones for the same seed; `slots` is what the last sentence meant."""

    rules: Mapping[str, Part]
    lists: Mapping[str, list[Spoken]]
    random: Random
    slots: dict[str, str | int] = field(default_factory=dict)

    def say(self, template: Part) -> str:
        """One sentence of the template, its spaces made single."""
        self.slots = {}
        return " ".join(self._say(template).split())

    def _say(self, part: Part) -> str:
        match part:
            case Text(words):
                return words
            case Rule(name):
                return self._say(self.rules[name])
            case SlotOf(list_name, slot):
                spoken = self.random.choice(self.lists[list_name])
                self.slots[slot] = spoken.meant
                return spoken.said
            case Sequence(parts):
                return "".join(self._say(each) for each in parts)
            case Choice(parts):
                return self._say(self.random.choice(parts))
            case AnyOrder(parts):
                return " ".join(self._say(each) for each in self.random.sample(parts, len(parts)))
