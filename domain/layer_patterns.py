"""The keys of a rank or an alpha pattern: endings of layers' names, in the part of peft's language that is plain.

peft takes a key for a regular expression, matched from the name's beginning or from a dot to its end, and lets the
first key that matches decide. Two things of that are not let in. Quantifiers: Python gives an expression no time limit,
and one without them cannot be slow. And two keys for one layer: neither the stored job nor an exported adapter keeps
the order of keys, and without quantifiers it can be told beforehand whether two keys meet.
"""

import re
from dataclasses import dataclass

MAX_KEYS = 64
MAX_KEY_CHARACTERS = 512
FORM = (
    "Use the ending of a layer's name, such as `q_proj` or `layers.0.self_attn.q_proj`;"
    r" a part of it may be alternatives, `(0|1|2)`, or any number, `\d+`."
)

# What transformers calls the list of a decoder's layers, which the layers' numbers follow.
_LAYER_LISTS = frozenset({"layers", "h", "blocks"})
_ANY_NUMBER = r"\d+"
_NAME = r"[A-Za-z0-9_]+"
_PART = rf"(?:{_NAME}|\({_NAME}(?:\|{_NAME})*\)|\\d\+)"
_KEY = re.compile(rf"\^?{_PART}(?:\\?\.{_PART})*")


@dataclass(frozen=True)
class LayerPattern:
    """A key as read: for each dotted part of a name's ending the words it may be, or None for any number.

    whole: the parts are the whole name, not its ending.
    """

    parts: tuple[frozenset[str] | None, ...]
    whole: bool = False

    @property
    def modules(self) -> frozenset[str]:
        """The last parts of the names it matches; empty where that is any number, which no linear layer is called."""
        return self.parts[-1] or frozenset()

    @property
    def layer_numbers(self) -> frozenset[int]:
        """Every number it gives for a place in the decoder's list of layers."""
        pairs = zip(self.parts, self.parts[1:], strict=False)
        words = (after for before, after in pairs if before and before <= _LAYER_LISTS and after)
        return frozenset(int(word) for after in words for word in after if word.isdecimal())

    def names(self, layer: str) -> bool:
        """Whether a layer's whole name matches, as peft would have it."""
        parts = layer.split(".")
        if len(parts) < len(self.parts) or (self.whole and len(parts) > len(self.parts)):
            return False
        ending = parts[len(parts) - len(self.parts) :]
        return all(
            part.isdecimal() if words is None else part in words for part, words in zip(ending, self.parts, strict=True)
        )

    def meets(self, other: "LayerPattern") -> bool:
        """Whether a layer's name could match both."""
        longer = max(len(self.parts), len(other.parts))
        if any(each.whole and len(each.parts) < longer for each in (self, other)):
            return False
        return all(map(_share_a_word, reversed(self.parts), reversed(other.parts)))


def _share_a_word(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    if one is None or other is None:
        words = one or other
        return words is None or any(word.isdecimal() for word in words)
    return not one.isdisjoint(other)


def read_key(key: str) -> LayerPattern | None:
    """A pattern's key, or None where it has another form than FORM says."""
    if len(key) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
        return None
    parts = key.removeprefix("^").replace("\\.", ".").split(".")
    return LayerPattern(
        tuple(None if part == _ANY_NUMBER else frozenset(part.strip("()").split("|")) for part in parts),
        whole=key.startswith("^"),
    )
