import io
import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from domain.peft_folders import TENSOR_NAMES
from domain.refusals import BadLayout, NonFiniteWeights, Refusal
from domain.safetensors_header import MAX_HEADER_BYTES, SafetensorsHeader, check_finite, read_header

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{which}.weight" for which in "AB")
GOOD = {
    A: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
}
DATA = bytes(64)


def file_of(header: Any, data: bytes = DATA, *, said: int | None = None) -> bytes:
    """A file by the format's description: the header's length, the header, the bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if said is None else said) + text + data


def read(content: bytes, *, max_tensors: int = 4) -> SafetensorsHeader:
    stream = io.BytesIO(content)
    header = read_header(stream, len(content), names=TENSOR_NAMES, max_tensors=max_tensors)
    check_finite(stream, header)
    return header


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


def test_a_good_file_is_read_as_the_library_reads_it() -> None:
    content = safetensors.numpy.save(
        {A: np.arange(8, dtype=np.float32).reshape(2, 4), B: np.ones((4, 2), dtype=np.float16)}, {"format": "pt"}
    )
    header = read(content)
    theirs = dict(safetensors.deserialize(content))
    assert {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in header.tensors} == {
        name: (entry["dtype"], entry["shape"]) for name, entry in theirs.items()
    }
    for tensor in header.tensors:
        at = header.data_offset
        assert content[at + tensor.begin : at + tensor.end] == bytes(theirs[tensor.name]["data"])


HEADERS: list[tuple[bytes, str, str | None]] = [
    # The file, the code, and the tensor.
    (b"", "bad_header", None),
    (b"\x02\x00\x00\x00\x00\x00\x00", "bad_header", None),
    (struct.pack("<Q", 2), "bad_header", None),
    (file_of(GOOD, said=2**63), "bad_header", None),
    (file_of(GOOD, said=2**64 - 1), "bad_header", None),
    (file_of(GOOD, said=10_000), "bad_header", None),
    (file_of(b"{" + b" " * MAX_HEADER_BYTES + b"}"), "header_too_large", None),
    (file_of(b" " + json.dumps(GOOD).encode()), "bad_header", None),
    (file_of(b"[]"), "bad_header", None),
    (file_of(b"{}"), "bad_header", None),
    (file_of(b'{"__metadata__":{}}', b""), "bad_header", None),
    (file_of(b"{" * 500_000), "bad_header", None),
    (file_of(b'{"a":' + b"[" * 400_000), "bad_header", None),
    (file_of(b"{\xff}"), "bad_header", None),
    (file_of(json.dumps(GOOD).replace(B, A).encode()), "bad_header", A),
    (file_of(GOOD | {"__metadata__": {"format": 1}}), "bad_header", "__metadata__"),
    (file_of(GOOD | {"__metadata__": ["pt"]}), "bad_header", "__metadata__"),
    (file_of(json.dumps(GOOD | {"__metadata__": {"a": "\ud800"}}).encode()), "bad_header", "__metadata__"),
    (file_of({"../../etc/passwd": GOOD[A], B: GOOD[B]}), "bad_header", "../../etc/passwd"),
    (file_of({"x" * 1000: GOOD[A], B: GOOD[B]}), "bad_header", "x" * 128),
    (file_of({"a\x1b[2Jb": GOOD[A]}), "bad_header", "a\ufffd[2Jb"),
    (file_of(GOOD | {A + "\n": GOOD[A]}), "bad_header", A + "\ufffd"),
    (file_of(GOOD | {A: 7}), "bad_header", A),
    (file_of(changed(A, more=1)), "bad_header", A),
    (file_of({A: {"dtype": "F32", "shape": [16]}}), "bad_header", A),
    (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system", "not_safetensors", None),
    (b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl", "not_safetensors", None),
    (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x01", "not_safetensors", None),
    (file_of(changed(B, data_offsets=[28, 60])), "bad_layout", B),
    (file_of(changed(B, data_offsets=[0, 32])), "bad_layout", B),
    (file_of(changed(B, data_offsets=[36, 68]), bytes(68)), "bad_layout", B),
    (file_of(GOOD, DATA + b"\0"), "bad_layout", B),
    (file_of(GOOD, DATA[:-1]), "bad_layout", B),
    (file_of(changed(B, shape=[4, 3])), "bad_layout", B),
    (file_of(changed(B, shape=[2**32, 2**32])), "bad_layout", B),
    (file_of(changed(B, shape=[2**63, 2])), "bad_layout", B),
    (file_of(changed(B, shape=[10**4000])), "bad_layout", B),
    (file_of(changed(B, shape=[0, 2], data_offsets=[32, 32]), bytes(32)), "bad_layout", B),
    (file_of(changed(B, shape=[])), "bad_layout", B),
    (file_of(changed(B, shape=[2, 2, 2])), "bad_layout", B),
    (file_of(changed(B, shape=[True, 8])), "bad_layout", B),
    (file_of(changed(B, shape="42")), "bad_layout", B),
    (file_of(changed(B, data_offsets=[-32, 0])), "bad_layout", B),
    (file_of(json.dumps(changed(A, data_offsets=["at", 32])).replace('"at"', "-0").encode()), "bad_layout", A),
    (file_of(changed(B, data_offsets=[64, 32])), "bad_layout", B),
    (file_of(changed(B, data_offsets=[32])), "bad_layout", B),
    (file_of(changed(A, dtype="I32")), "bad_layout", A),
    (file_of(changed(A, dtype="F64")), "bad_layout", A),
    (file_of(changed(A, dtype=["F32"])), "bad_layout", A),
    (file_of(changed(A, data_offsets=[0.0, 32])), "bad_header", None),
    (
        file_of(
            {A: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, B: GOOD[B] | {"data_offsets": [2, 34]}},
            bytes(34),
        ),
        "bad_layout",
        B,
    ),
]


@pytest.mark.parametrize(("content", "code", "param"), HEADERS, ids=[str(place) for place in range(len(HEADERS))])
def test_a_bad_header_is_refused_by_name(content: bytes, code: str, param: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        read(content)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_the_file_that_all_of_these_were_made_from_is_taken() -> None:
    assert [tensor.name for tensor in read(file_of(GOOD)).tensors] == [A, B]
    assert [tensor.name for tensor in read(file_of(dict(reversed(GOOD.items())))).tensors] == [A, B]


def test_more_tensors_than_the_adapter_can_have_are_refused_unparsed() -> None:
    read(file_of(GOOD), max_tensors=2)
    with pytest.raises(Refusal) as refused:
        read(file_of(GOOD), max_tensors=1)
    assert refused.value.code == "bad_header"


def test_a_header_of_tens_of_megabytes_is_refused_by_its_length_alone() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.taken += len(found)
            return found

    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' + b" " * 46_800_000 + b"}"
    stream = Counting(file_of(header, b""))
    with pytest.raises(Refusal) as refused:
        read_header(stream, 8 + len(header), names=TENSOR_NAMES, max_tensors=4)
    assert (refused.value.code, stream.taken) == ("header_too_large", 9)


# --- weights that are no numbers --------------------------------------------------------------------------------------

# Per IEEE 754: infinities, quiet and signalling NaNs; and beside them the largest, the smallest and a negative zero.
BITS: dict[str, tuple[str, list[int], list[int]]] = {
    "F32": ("<I", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001], [0x7F7FFFFF, 0xFF7FFFFF, 1, 1 << 31]),
    "F16": ("<H", [0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01], [0x7BFF, 0xFBFF, 1, 1 << 15]),
    "BF16": ("<H", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81], [0x7F7F, 0xFF7F, 1, 1 << 15]),
}


def with_bits(dtype: str, bits: int, place: int, *, numbers: int) -> bytes:
    code = BITS[dtype][0]
    size = struct.calcsize(code)
    # Its neighbours are as large as they can be: a carry must not cross from lane to lane.
    values = bytearray(struct.pack(code, BITS[dtype][2][1]) * numbers)
    values[place * size : (place + 1) * size] = struct.pack(code, bits)
    header = {A: {"dtype": dtype, "shape": [numbers], "data_offsets": [0, size * numbers]}}
    return file_of(header, bytes(values))


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("place", [0, 1, 6])
def test_an_infinity_or_no_number_is_found_wherever_it_stands(dtype: str, place: int) -> None:
    _code, bad, good = BITS[dtype]
    for bits in good:
        read(with_bits(dtype, bits, place, numbers=7))
    for bits in bad:
        with pytest.raises(NonFiniteWeights) as refused:
            read(with_bits(dtype, bits, place, numbers=7))
        assert refused.value.param == A


@pytest.mark.parametrize("dtype", BITS)
def test_the_last_number_of_a_tensor_of_many_chunks_is_looked_at(dtype: str) -> None:
    numbers = (3 << 20) // struct.calcsize(BITS[dtype][0]) + 5
    read(with_bits(dtype, 0, numbers - 1, numbers=numbers))
    with pytest.raises(NonFiniteWeights):
        read(with_bits(dtype, BITS[dtype][1][0], numbers - 1, numbers=numbers))


def test_finite_is_what_another_library_calls_finite() -> None:
    chance = np.random.default_rng(7)
    for _ in range(200):
        values = chance.integers(0, 2**16, size=64, dtype=np.uint16).view(np.float16)
        content = safetensors.numpy.save({A: values})
        if np.isfinite(values).all():
            read(content)
        else:
            with pytest.raises(NonFiniteWeights):
                read(content)


def test_a_file_that_gets_shorter_while_it_is_read_is_refused() -> None:
    content = file_of(GOOD)
    header = read(content)
    with pytest.raises(BadLayout):
        check_finite(io.BytesIO(content[:-4]), header)


# --- whatever is let through, the library loads alike -----------------------------------------------------------------


def _flip(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))] + bytes(chance.randrange(3))


def _swap_numbers(content: bytes, chance: random.Random) -> bytes:
    # Digits, signs and brackets are where a layout is wrong without being bad JSON.
    places = [place for place, byte in enumerate(content[8:300], 8) if chr(byte) in '0123456789[],:{}" ']
    if not places:
        return content
    place = chance.choice(places)
    return content[:place] + chance.choice(b'0123456789-[],:{}" .eE\\u').to_bytes(1, "little") + content[place + 1 :]


def _respell(content: bytes, chance: random.Random) -> bytes:
    """The same header in another spelling: spaces, escapes, another order. Much of this is still right."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    items = list(header.items())
    chance.shuffle(items)
    text = json.dumps(
        dict(items), indent=chance.choice([None, 1]), separators=chance.choice([(",", ":"), (", ", " : ")])
    )
    if chance.random() < 0.5:
        text = text.replace("lora", "l\\u006fra", 1)
    return file_of(text.encode() + b" " * chance.randrange(9), content[8 + length :])


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _swap_numbers]


def test_what_is_let_through_is_what_the_library_loads() -> None:
    chance, fates = random.Random(20261125), Counter[str]()
    numbers = np.random.default_rng(1)
    for turn in range(6000):
        dtypes = [np.float32, np.float16]
        tensors = {
            name: numbers.standard_normal((chance.randint(1, 4), chance.randint(1, 4))).astype(chance.choice(dtypes))
            for name in (A, B)[: chance.randint(1, 2)]
        }
        if chance.random() < 0.05:
            tensors[A].flat[0] = chance.choice([np.nan, np.inf, -np.inf])
        content = safetensors.numpy.save(tensors, chance.choice([None, {"format": "pt"}]))
        if chance.random() < 0.5:
            content = _respell(content, chance)
        for _ in range(chance.randint(0, 2)):
            content = chance.choice(MUTATIONS)(content, chance) or b"\0"
        try:
            ours = read(content)
        except Refusal as refusal:
            fates[refusal.code] += 1
            continue
        fates["taken"] += 1
        theirs = dict(safetensors.deserialize(content))
        assert {tensor.name for tensor in ours.tensors} == set(theirs), turn
        for tensor in ours.tensors:
            entry = theirs[tensor.name]
            stored = content[ours.data_offset + tensor.begin : ours.data_offset + tensor.end]
            assert (tensor.dtype, list(tensor.shape), stored) == (entry["dtype"], entry["shape"], bytes(entry["data"]))
        assert all(np.isfinite(array).all() for array in safetensors.numpy.load(content).values())
    # The search has met every fate often enough to mean something.
    assert fates["taken"] > 1000, fates
    for code in ("bad_header", "bad_layout", "not_safetensors", "non_finite_weights"):
        assert fates[code] > 5, fates
