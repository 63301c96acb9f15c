"""`python -m benchmarks.headers`: how long the check of an adapter's header keeps a processor, good ones and hostile.

Beside it, where a file is small enough to try: what the library takes that would open it otherwise. Prints the table of
docs/signing.md.
"""

import io
import json
import statistics
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import safetensors

from domain.peft_folders import TENSOR_NAMES
from domain.refusals import Refusal
from domain.safetensors_header import MAX_HEADER_BYTES, check_finite, read_header

ROUNDS = 21
WARM_UP = 3
MIB = 1 << 20
# Of an 8-billion-parameter decoder: 32 layers, 7 linear ones each, at rank 16.
LAYERS, WIDTH, INNER, KEYS, RANK = 32, 4096, 14336, 1024, 16
LINEARS = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KEYS, WIDTH), "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
MAX_TENSORS = 2 * LAYERS * len(LINEARS)
HOSTILE_TENSORS = 700_000


class Measured(NamedTuple):
    """Medians in milliseconds of processor time; theirs is None where the library was not asked."""

    what: str
    outcome: str
    ours_ms: float
    theirs_ms: float | None


def adapter() -> bytes:
    """A whole adapter of that decoder in 16 bits, its weights zero."""
    header, at = {}, 0
    for layer in range(LAYERS):
        for name, (out_features, in_features) in LINEARS.items():
            for which, shape in (("A", (RANK, in_features)), ("B", (out_features, RANK))):
                end = at + 2 * shape[0] * shape[1]
                tensor = f"base_model.model.model.layers.{layer}.{name}.lora_{which}.weight"
                header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
                at = end
    return _file(json.dumps(header, separators=(",", ":")).encode()) + bytes(at)


def empty_tensors() -> bytes:
    """A header of 700,000 tensors of no size: the library opens it, in tens of seconds."""
    entries = ",".join(
        f'"adapter_{number:07}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(HOSTILE_TENSORS)
    )
    return _file(b"{" + entries.encode() + b"}")


def crowded() -> bytes:
    """As many tensors as a header of the allowed size can name."""
    entry = '"t{:05}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    count = MAX_HEADER_BYTES // (len(entry.format(0)) + 1)
    return _file(("{" + ",".join(entry.format(number) for number in range(count)) + "}").encode())


def nested() -> bytes:
    """Brackets all the way."""
    return _file(b'{"a":' + b"[" * (MAX_HEADER_BYTES - 5))


def numbers_alone() -> bytes:
    """A shape of half a million sizes."""
    return _file(b'{"a":{"dtype":"F32","shape":[1' + b",1" * 520_000 + b"]}}")


def names_alone() -> bytes:
    """Names without tensors."""
    pairs = ",".join(f'"{number:x}":0' for number in range(80_000))
    return _file(("{" + pairs + "}").encode())


def _file(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def main() -> None:
    """Measure and print."""
    good = adapter()
    cases: list[tuple[str, bytes, bool]] = [
        (f"a good adapter's header: {MAX_TENSORS} tensors, {len(good) / MIB:.0f} MiB of weights", good, True),
        ("700,000 empty tensors", empty_tensors(), False),
        ("as many tensors as 1 MiB can name", crowded(), True),
        ("80,000 names that are no tensors", names_alone(), True),
        ("a shape of half a million sizes", numbers_alone(), True),
        ("a million brackets", nested(), True),
    ]
    rows = [_measured(what, content, ask_library=ask) for what, content, ask in cases]
    print("| header | outcome | ours, ms | the library, ms |\n|---|---|---|---|")  # noqa: T201 - what it is for
    for row in rows:
        theirs = "not asked" if row.theirs_ms is None else f"{row.theirs_ms:.2f}"
        print(f"| {row.what} | {row.outcome} | {row.ours_ms:.2f} | {theirs} |")  # noqa: T201
    weights_ms = _median_ms(lambda: _check_weights(good))
    print(f"\nEvery weight of the good one a number: {len(good) / MIB / weights_ms * 1000:.0f} MiB/s")  # noqa: T201


def _measured(what: str, content: bytes, *, ask_library: bool) -> Measured:
    return Measured(
        f"{what} ({len(content) / 1e6:.1f} MB)" if not ask_library else what,
        _outcome(content),
        _median_ms(lambda: _outcome(content)),
        _median_ms(lambda: _open(content)) if ask_library else None,
    )


def _outcome(content: bytes) -> str:
    stream = io.BytesIO(content)
    try:
        read_header(stream, len(content), names=TENSOR_NAMES, max_tensors=MAX_TENSORS)
    except Refusal as refusal:
        return f"`{refusal.code}`"
    return "taken"


def _check_weights(content: bytes) -> None:
    stream = io.BytesIO(content)
    check_finite(stream, read_header(stream, len(content), names=TENSOR_NAMES, max_tensors=MAX_TENSORS))


def _open(content: bytes) -> None:
    try:
        safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return


def _median_ms(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.process_time()
        act()
        taken.append((time.process_time() - began) * 1000)
    return statistics.median(taken[WARM_UP:])


if __name__ == "__main__":
    main()
