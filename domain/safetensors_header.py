"""A .safetensors file by our own rules, read before any library opens it.

The format: 8 bytes, little-endian, say how long the header is; the header is a JSON object of tensors, each with dtype,
shape and the two offsets of its bytes; then come the bytes, without gap. The common reader takes more than that: names
that stand twice, a header of 100 MB, weights that are no numbers. What is let through here is a subset of what it
loads, it takes memory for one header of 1 MiB at most, and nothing of the file runs.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from domain.digests import CHUNK_BYTES
from domain.refusals import BadHeader, BadLayout, HeaderTooLarge, NonFiniteWeights, NotSafetensors

MAX_HEADER_BYTES = 1 << 20

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
# Vectors and matrices: what an adapter is made of. A bound, so that the product of a shape is quickly told.
_DIMENSIONS = (1, 2)
# 2**63 has 19 digits; longer numbers are no offset of any file.
_MAX_DIGITS = 19
_MAX_SHOWN_CHARACTERS = 128
# Quotes and commas of an entry: five texts; two fields' ends, one in the shape, one in the offsets, one after it.
_MARKS = {b'"': 10, b",": 5}
_MARKS_OF_METADATA = 1024
# What no check lets through: it stands for every number that is none, -0 too.
_NO_SIZE = -1


class _Format(NamedTuple):
    """A floating-point format: its size, and the bits of an exponent that stands for an infinity or for no number."""

    size_bytes: int
    exponent: int


_FORMATS = {"F32": _Format(4, 0x7F80_0000), "F16": _Format(2, 0x7C00), "BF16": _Format(2, 0x7F80)}


class Tensor(NamedTuple):
    """One entry of a header. begin and end count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file says it holds, in the order of the bytes. data_offset: where in the file those begin."""

    tensors: tuple[Tensor, ...]
    data_offset: int


def read_header(stream: BinaryIO, size_bytes: int, *, names: re.Pattern[str], max_tensors: int) -> SafetensorsHeader:
    """The header of a file of that size, read from where the stream stands, which is its beginning.

    names: what a tensor may be called. Raises NotSafetensors, BadHeader, HeaderTooLarge or BadLayout, with the tensor
    in `param` where it is one's fault.
    """
    content = _content(stream, size_bytes)
    _check_size(content, max_tensors)
    entries = _parsed(content)
    _check_metadata(entries.pop(_METADATA, {}))
    if not 0 < len(entries) <= max_tensors:
        raise BadHeader(f"The header names {len(entries)} tensors, and the adapter has 1 to {max_tensors}.")
    tensors = sorted((_tensor(name, entry, names) for name, entry in entries.items()), key=lambda tensor: tensor.begin)
    data_offset = _LENGTH_BYTES + len(content)
    _check_layout(tensors, size_bytes - data_offset)
    return SafetensorsHeader(tuple(tensors), data_offset)


def _content(stream: BinaryIO, size_bytes: int) -> bytes:
    """The header's bytes, where the file can be one of this format."""
    start = stream.read(_LENGTH_BYTES + 1)
    if len(start) < _LENGTH_BYTES + 1:
        raise BadHeader("The file ends before its header.")
    (length,) = struct.unpack("<Q", start[:_LENGTH_BYTES])
    opens, fits = start.endswith(b"{"), length <= size_bytes - _LENGTH_BYTES
    if not opens and not fits:
        # A pickle or an archive by another name: neither of the format's two marks is there.
        raise NotSafetensors("The file is not in the safetensors format.")
    if not fits:
        raise BadHeader("The header is said to be longer than the file.")
    if length > MAX_HEADER_BYTES:
        raise HeaderTooLarge(f"The header has {length} bytes; {MAX_HEADER_BYTES} are allowed.")
    if not opens:
        raise BadHeader("The header does not begin with `{`.")
    content = b"{" + stream.read(length - 1)
    if len(content) != length:
        raise BadHeader("The file ends before its header does.")
    return content


def _check_size(content: bytes, max_tensors: int) -> None:
    """Refuse, without parsing it, what has more texts and numbers than so many tensors: parsing is what costs."""
    for mark, of_a_tensor in _MARKS.items():
        if content.count(mark) > of_a_tensor * max_tensors + _MARKS_OF_METADATA:
            raise BadHeader(f"The header says more than {max_tensors} tensors can.")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(
            content.decode(),
            object_pairs_hook=_unique,
            parse_int=_size,
            parse_float=_refused,
            parse_constant=_refused,
        )
    except (ValueError, RecursionError):
        raise BadHeader("The header is not a JSON object of tensors.") from None
    if not isinstance(parsed, dict):
        raise BadHeader("The header is not a JSON object of tensors.")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _times),) = Counter(name for name, _ in pairs).most_common(1)
        raise BadHeader("A name stands twice in the header.", param=shown(twice))
    return found


def _size(digits: str) -> int:
    return int(digits) if digits.isdecimal() and len(digits) <= _MAX_DIGITS else _NO_SIZE


def _refused(number: str) -> float:
    raise ValueError(number)


def _check_metadata(metadata: object) -> None:
    texts = [text for pair in metadata.items() for text in pair] if isinstance(metadata, dict) else [None]
    if not all(isinstance(text, str) and _is_unicode(text) for text in texts):
        raise BadHeader("The header's metadata are not texts by name.", param=_METADATA)


def _is_unicode(text: str) -> bool:
    # JSON can spell half of a surrogate pair; no other parser need follow it.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _tensor(name: str, entry: object, names: re.Pattern[str]) -> Tensor:
    param = shown(name)
    if not names.fullmatch(name):
        raise BadHeader("The tensor is none that an adapter may have.", param=param)
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise BadHeader("A tensor has dtype, shape and data_offsets, and nothing else.", param=param)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _FORMATS:
        raise BadLayout(f"The tensor's dtype is none of {', '.join(sorted(_FORMATS))}.", param=param)
    if not _are_sizes(shape, least=1) or len(shape) not in _DIMENSIONS:
        raise BadLayout("The tensor's shape is not one or two sizes.", param=param)
    if not _are_sizes(offsets, least=0) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise BadLayout("The tensor's data_offsets are not a beginning and an end.", param=param)
    begin, end = offsets
    size_bytes = _FORMATS[dtype].size_bytes
    if end - begin != math.prod(shape) * size_bytes:
        raise BadLayout("The tensor's bytes are not as many as its shape and dtype ask for.", param=param)
    if begin % size_bytes:
        raise BadLayout("The tensor does not begin at a multiple of its numbers' size.", param=param)
    return Tensor(name, dtype, tuple(shape), begin, end)


def _are_sizes(values: object, *, least: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= least for value in values)


def _check_layout(tensors: list[Tensor], data_bytes: int) -> None:
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            what = "overlaps the one before it" if tensor.begin < at else "leaves a hole before it"
            raise BadLayout(f"The tensor {what}.", param=shown(tensor.name))
        at = tensor.end
    if at != data_bytes:
        what = "bytes that are no tensor's" if at < data_bytes else "fewer bytes than its tensors"
        raise BadLayout(f"The file has {what} at its end.", param=shown(tensors[-1].name))


def shown(name: str) -> str:
    """A tensor's name as a refusal may repeat it: not at any length, and with nothing that steers a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name[:_MAX_SHOWN_CHARACTERS])


# --- the bytes --------------------------------------------------------------------------------------------------------


def check_finite(stream: BinaryIO, header: SafetensorsHeader) -> None:
    """Read every weight. Raises NonFiniteWeights with the first tensor that holds an infinity or no number."""
    for tensor in header.tensors:
        stream.seek(header.data_offset + tensor.begin)
        if any(_has_non_finite(chunk, tensor.dtype) for chunk in _chunks(stream, tensor.end - tensor.begin)):
            raise NonFiniteWeights("The tensor holds an infinity, or what is no number.", param=shown(tensor.name))


def _chunks(stream: BinaryIO, left_bytes: int) -> Iterator[bytes]:
    while left_bytes > 0:
        chunk = stream.read(min(left_bytes, CHUNK_BYTES))
        if not chunk:
            raise BadLayout("The file ends before its last tensor does.")
        left_bytes -= len(chunk)
        yield chunk


def _has_non_finite(chunk: bytes, dtype: str) -> bool:
    """Whether any exponent has all its bits: all of them at once, as one long number of many lanes.

    In each lane the lowest bit of the exponent is added to the exponent alone. That carries into the lane's top bit,
    the sign's place, if and only if all bits are set; into no other lane ever.
    """
    exponents, lowest, top = _lanes(dtype, len(chunk))
    return bool(((int.from_bytes(chunk, "little") & exponents) + lowest) & top)


@lru_cache(maxsize=64)
def _lanes(dtype: str, size_bytes: int) -> tuple[int, int, int]:
    """The exponent, its lowest bit and the top bit, in every lane of so many bytes."""
    size, exponent = _FORMATS[dtype]
    lanes = size_bytes // size
    bits = (exponent, exponent & -exponent, 1 << (8 * size - 1))
    exponents, lowest, top = (int.from_bytes(bit.to_bytes(size, "little") * lanes, "little") for bit in bits)
    return exponents, lowest, top
