"""A seal: the digests of a chain's events that became visible between two snapshots of the database.

Which events a seal covers is decided by transactions, not by numbers or times: those that the snapshot sees and the
round's before did not. So an event whose transaction commits late is in a later seal, whatever its number, and nothing
that stays open, a dump or a long transaction, keeps the others from being sealed.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from evidence.canonical import MAX_INT, canonical
from evidence.events import Leaf

NOTHING_BEFORE = bytes(32)
_DIGEST_BYTES = 32
_SNAPSHOT = re.compile("[0-9]{1,18}:[0-9]{1,18}:([0-9]{1,18}(,[0-9]{1,18})*)?")


@dataclass(frozen=True)
class Snapshot:
    """A pg_snapshot: every transaction below xmax but the running ones had ended when it was taken."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """From PostgreSQL's `xmin:xmax:running,…`. Raises ValueError."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(",") if running else ())))

    def before(self, xid: int) -> "Snapshot":
        """The same without the transactions from that one on: a round that is not to take all there is."""
        running = frozenset(each for each in self.running if each < xid)
        return Snapshot(min(self.xmin, xid), min(self.xmax, xid), running)

    def sees(self, xid: int) -> bool:
        """Whether what that transaction wrote, if it committed, is in the snapshot."""
        return xid < self.xmax and xid not in self.running

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"


# Before the first round.
EMPTY = Snapshot(0, 0, frozenset())


@dataclass(frozen=True)
class Seal:
    """One seal of a chain. sealed_at in microseconds; xid is the transaction that wrote it, newer than its snapshot."""

    chain: UUID
    seal: int
    sealed_at: int
    xid: int
    snapshot: str
    numbers: Sequence[int]
    leaves: bytes
    previous: bytes

    @property
    def digest(self) -> bytes:
        """What the next seal of the chain names as its previous."""
        return sha256(canonical(self._header())).digest()

    @property
    def first_number(self) -> int:
        """The lowest of its events' numbers; 0 where it has none, which is no seal."""
        return self.numbers[0] if self.numbers else 0

    @property
    def last_number(self) -> int:
        """The highest of its events' numbers; 0 where it has none."""
        return self.numbers[-1] if self.numbers else 0

    def round(self) -> tuple[int, int, int, int]:
        """What `evidence.rounds` has to know of it."""
        return self.xid, self.sealed_at, self.last_number, Snapshot.parse(self.snapshot).xmin

    def leaf(self, place: int) -> bytes:
        """The digest of its event in that place."""
        return self.leaves[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES]

    def is_well_formed(self) -> bool:
        """Whether numbers rise and each has a digest, and the rest is what it should be: others have no digest even."""
        numbers = self.numbers
        rising = all(numbers[place] < numbers[place + 1] for place in range(len(numbers) - 1))
        said = (self.seal, self.sealed_at, self.xid, self.first_number, self.last_number)
        return (
            bool(numbers)
            and rising
            and len(self.leaves) == _DIGEST_BYTES * len(numbers)
            and all(0 <= number <= MAX_INT for number in said)
            and _SNAPSHOT.fullmatch(self.snapshot) is not None
        )

    def _header(self) -> dict[str, Any]:
        return {
            "chain": str(self.chain),
            "seal": self.seal,
            "sealed_at": self.sealed_at,
            "xid": self.xid,
            "snapshot": self.snapshot,
            "events": len(self.numbers),
            "first": self.first_number,
            "last": self.last_number,
            "numbers": sha256(b"".join(number.to_bytes(8) for number in self.numbers)).hexdigest(),
            "leaves": sha256(self.leaves).hexdigest(),
            "previous": self.previous.hex(),
        }


def make(
    chain: UUID, leaves: Iterable[Leaf], *, after: tuple[int, bytes], sealed_at: int, xid: int, snapshot: Snapshot
) -> Seal:
    """The next seal of a chain over at least one event. `after` is the number and digest of the one before."""
    ordered = sorted(leaves)
    return Seal(
        chain=chain,
        seal=after[0] + 1,
        sealed_at=sealed_at,
        xid=xid,
        snapshot=str(snapshot),
        numbers=array("q", (each.number for each in ordered)),
        leaves=b"".join(each.digest for each in ordered),
        previous=after[1],
    )


def as_json(seal: Seal) -> dict[str, Any]:
    """As it stands in exports and in a checkpoint's segment."""
    return {
        "chain": str(seal.chain),
        "seal": seal.seal,
        "sealed_at": seal.sealed_at,
        "xid": seal.xid,
        "snapshot": seal.snapshot,
        "numbers": list(seal.numbers),
        "leaves": seal.leaves.hex(),
        "previous": seal.previous.hex(),
        "digest": seal.digest.hex(),
    }


def from_json(said: dict[str, Any]) -> tuple[Seal, bytes]:
    """A seal, and the digest that it is said to have. Raises KeyError, ValueError, TypeError."""
    if not all(type(said[name]) is int for name in ("seal", "sealed_at", "xid")):
        raise TypeError("a seal's place is told in integers")
    seal = Seal(
        chain=UUID(said["chain"]),
        seal=said["seal"],
        sealed_at=said["sealed_at"],
        xid=said["xid"],
        snapshot=str(said["snapshot"]),
        numbers=array("q", said["numbers"]),
        leaves=bytes.fromhex(said["leaves"]),
        previous=bytes.fromhex(said["previous"]),
    )
    return seal, bytes.fromhex(said["digest"])
