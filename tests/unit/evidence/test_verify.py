"""The verifier on trails in memory: late commits are no fault, and each fault is named by its first event."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from evidence import seals
from evidence.archives import Archive
from evidence.checkpoints import Checkpoint, Head
from evidence.events import Leaf
from evidence.rounds import Rounds
from evidence.seals import NOTHING_BEFORE, Seal, Snapshot
from evidence.verify import Fault, verify

CHAIN = UUID(int=7)
_SECOND = 1_000_000


def event(number: int, *, xid: int, content: str = "") -> Leaf:
    """Whose number is also its time, in minutes."""
    return Leaf(number, xid, number * 60 * _SECOND, sha256(f"{number}{content}".encode()).digest())


@dataclass
class Trail:
    """Events and seals as somebody left them."""

    leaves: list[Leaf]
    made: list[Seal]
    dropped: list[Archive] = field(default_factory=list)
    # Of other chains.
    others: list[Seal] = field(default_factory=list)

    def chains(self) -> list[UUID]:
        return [CHAIN]

    def events(self, _chain: UUID) -> Iterator[Leaf]:
        return iter(sorted(self.leaves))

    def seals(self, _chain: UUID) -> Iterator[tuple[Seal, bytes]]:
        return iter([(seal, seal.digest if seal.is_well_formed() else bytes(32)) for seal in self.made])

    def archives(self) -> Sequence[Archive]:
        return self.dropped

    def newest_seal(self) -> Seal | None:
        return self.made[-1] if self.made else None

    def rounds(self) -> Rounds:
        return Rounds(sorted(seal.round() for seal in (*self.made, *self.others) if seal.is_well_formed()))

    def seal(self, leaves: list[Leaf], *, xid: int, snapshot: str) -> None:
        last = self.made[-1] if self.made else None
        after = (last.seal, last.digest) if last else (0, NOTHING_BEFORE)
        at = max(leaf.occurred_at for leaf in leaves) + _SECOND
        made = seals.make(CHAIN, leaves, after=after, sealed_at=at, xid=xid, snapshot=Snapshot.parse(snapshot))
        self.made.append(made)


@pytest.fixture
def trail() -> Trail:
    """Event 2's transaction (xid 101) commits after the first round; 6 is not sealed yet; 4 was rolled back."""
    leaves = [event(1, xid=100), event(2, xid=101), event(3, xid=102), event(5, xid=104), event(6, xid=106)]
    made = Trail(leaves, [])
    made.seal([leaves[0], leaves[2]], xid=103, snapshot="101:103:101")
    made.seal([leaves[1], leaves[3]], xid=105, snapshot="105:105:")
    return made


def checkpoint(trail: Trail) -> Checkpoint:
    last = trail.made[-1]
    return Checkpoint(1, 0, "acme", bytes(32), {CHAIN: Head(last.seal, last.digest, 4, 5)}, "")


def test_a_transaction_that_committed_late_is_no_fault(trail: Trail) -> None:
    report = verify(trail, [checkpoint(trail)])
    assert (report.findings, report.events, report.unsealed, report.seals) == ([], 5, 1, 2)


def _without(number: int) -> Callable[[Trail], None]:
    def tamper(trail: Trail) -> None:
        trail.leaves = [leaf for leaf in trail.leaves if leaf.number != number]

    return tamper


def _with(leaf: Leaf) -> Callable[[Trail], None]:
    return lambda trail: trail.leaves.append(leaf)


def _changed(trail: Trail) -> None:
    trail.leaves[2] = event(3, xid=102, content="another")


def _cut(trail: Trail) -> None:
    del trail.leaves[3:], trail.made[1:]


def _rewritten(trail: Trail) -> None:
    first, second = trail.made
    trail.leaves[0] = event(1, xid=100, content="another")
    remade = replace(first, leaves=trail.leaves[0].digest + first.leaf(1))
    trail.made = [remade, replace(second, previous=remade.digest)]


FAULTS = {
    "changed": (_changed, 3, Fault.CHANGED),
    "deleted": (_without(1), 1, Fault.MISSING),
    "deleted, of a later seal": (_without(2), 2, Fault.MISSING),
    "inserted, as of then": (_with(event(4, xid=102)), 4, Fault.INSERTED),
    "inserted, at an old number": (_with(event(4, xid=200)), 4, Fault.INSERTED),
    "inserted, at an old time": (_with(Leaf(7, 200, 0, b"")), 7, Fault.INSERTED),
    "inserted, beside its like": (_with(Leaf(3, 102, 1, b"")), 3, Fault.CHANGED),
    "events cut": (lambda trail: trail.leaves.__delitem__(slice(3, None)), 5, Fault.MISSING),
    "chain cut": (_cut, 4, Fault.SEAL_MISSING),
    "rewritten": (_rewritten, 1, Fault.SEAL_CHANGED),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_its_first_event(trail: Trail, name: str) -> None:
    tamper, number, fault = FAULTS[name]
    signed = checkpoint(trail)
    tamper(trail)
    found = verify(trail, [signed]).first_bad
    assert found is not None
    assert (found.number, found.fault) == (number, fault)


def test_every_checkpoint_is_held_against_the_seal_it_names(trail: Trail) -> None:
    signed = checkpoint(trail)
    head = signed.heads[CHAIN]
    first = replace(signed, heads={CHAIN: Head(1, trail.made[0].digest, 2, 3)})
    assert verify(trail, [first, signed, signed]).findings == []
    for known in (
        [replace(signed, heads={CHAIN: replace(head, digest=bytes(32))}), signed],
        [replace(signed, heads={CHAIN: replace(head, events=5)}), signed],
        [signed, replace(signed, heads={CHAIN: replace(head, last_number=6)})],
        [signed, first],
        [signed, replace(signed, heads={})],
    ):
        found = verify(trail, known).findings
        assert [finding.fault for finding in found] == [Fault.SEAL_CHANGED]


@pytest.mark.parametrize(
    ("leaf", "is_found"),
    [
        (Leaf(90, 202, 40 * 60 * _SECOND, b"\1" * 32), True),
        (Leaf(40, 202, 95 * 60 * _SECOND, b"\1" * 32), True),
        (Leaf(90, 202, 95 * 60 * _SECOND, b"\1" * 32), False),
        (Leaf(40, 199, 40 * 60 * _SECOND, b"\1" * 32), False),
    ],
    ids=["an old time", "an old number", "newer than the seal", "committed late"],
)
def test_what_came_into_a_quiet_chain_is_held_against_the_seals_of_the_others(
    trail: Trail, leaf: Leaf, *, is_found: bool
) -> None:
    busy = [event(80, xid=198)]
    trail.others = [
        seals.make(
            UUID(int=8), busy, after=(0, NOTHING_BEFORE), sealed_at=busy[0].occurred_at, xid=200,
            snapshot=Snapshot.parse("199:200:199"),
        )
    ]  # fmt: skip
    trail.leaves.append(leaf)
    trail.seal([trail.leaves[4], leaf], xid=210, snapshot="210:210:")
    found = verify(trail, []).findings
    assert [(finding.number, finding.fault) for finding in found] == [(leaf.number, Fault.INSERTED)] * is_found


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        {"numbers": array("q")}, {"numbers": array("q", [-1, 3])}, {"numbers": array("q", [1, 2**53])},
        {"snapshot": "no snapshot"}, {"snapshot": ""}, {"xid": 2**53}, {"sealed_at": -(2**62)}, {"leaves": b""},
    ],
    ids=["empty", "negative", "beyond", "no snapshot", "empty snapshot", "xid", "time", "no leaves"],
)  # fmt: skip
def test_what_is_no_seal_is_a_changed_one(trail: Trail, change: dict[str, Any], place: int) -> None:
    signed, kept = checkpoint(trail), {CHAIN: list(trail.made)}
    trail.made[place] = replace(trail.made[place], **change)
    assert Fault.SEAL_CHANGED in {finding.fault for finding in verify(trail, [signed]).findings}
    found = verify(trail, [signed], kept).findings
    assert [finding.fault for finding in found] == [Fault.SEAL_CHANGED]


@pytest.mark.parametrize(("name", "number"), [("chain cut", 5), ("rewritten", 1)])
def test_kept_seals_tell_which_event_it_was(trail: Trail, name: str, number: int) -> None:
    signed, kept = checkpoint(trail), {CHAIN: list(trail.made)}
    FAULTS[name][0](trail)
    found = verify(trail, [signed], kept).first_bad
    assert found is not None
    assert found.number == number
    assert found.fault in {Fault.CHANGED, Fault.MISSING}


@pytest.mark.parametrize("name", ["chain cut", "rewritten"])
def test_without_a_checkpoint_a_chain_that_is_whole_in_itself_is_believed(trail: Trail, name: str) -> None:
    FAULTS[name][0](trail)
    assert verify(trail, []).findings == []


_APRIL = 100 * 24 * 3600 * _SECOND
JANUARY, APRIL = "audit_events_1970_01", "audit_events_1970_04"


@pytest.fixture
def months() -> Trail:
    """As `trail`, but 5 and 6 are of April, in which 2's transaction committed at last."""
    leaves = [event(1, xid=100), event(2, xid=101), event(3, xid=102)]
    leaves += [Leaf(number, 99 + number, _APRIL, bytes(31) + b"1") for number in (5, 6)]
    made = Trail(leaves, [])
    made.seal([leaves[0], leaves[2]], xid=103, snapshot="101:103:101")
    made.seal([leaves[1], leaves[3]], xid=105, snapshot="105:105:")
    return made


def manifest(partition: str, gone: Sequence[Leaf]) -> Archive:
    digest = sha256(b"".join(leaf.digest for leaf in gone)).hexdigest()
    return Archive(partition, [range(gone[0].number, gone[-1].number + 1)], len(gone), digest)


def test_a_dropped_month_is_whole_by_its_manifest_alone(months: Trail) -> None:
    gone = months.leaves[:3]
    months.leaves = months.leaves[3:]
    assert len(verify(months, []).findings) == 3
    months.dropped = [manifest(JANUARY, gone)]
    report = verify(months, [checkpoint(months)])
    assert (report.findings, report.archived, report.months) == ([], 3, [JANUARY])
    months.dropped = [replace(months.dropped[0], leaves_sha256=sha256(b"others").hexdigest())]
    found = verify(months, []).first_bad
    assert found is not None
    assert found.fault is Fault.ARCHIVE_CHANGED


@pytest.mark.parametrize(
    ("partition", "number"),
    [
        ("audit_events_x", 3), ("audit_events_1970_00", 3), ("audit_events_1970_13", 3), ("audit_events_1970_1", 3),
        ("audit_events_9999_12", 3), ("a" + JANUARY, 3), (JANUARY, 3), ("audit_events_1969_12", 3),
        ("audit_events_1970_02", 3), ("audit_events_1970_03", 3), (APRIL, 5),
    ],
)  # fmt: skip
def test_a_manifest_that_somebody_wrote_hides_no_event(months: Trail, partition: str, number: int) -> None:
    gone = [leaf for leaf in months.leaves if leaf.number == number]
    _without(number)(months)
    months.dropped = [manifest(partition, gone)]
    found = verify(months, [checkpoint(months)]).first_bad
    assert found is not None
    assert found.number == number


@pytest.mark.parametrize("partition", ["audit_events_x", APRIL])
def test_a_manifest_of_no_month_or_of_one_that_is_not_over_is_told_of(months: Trail, partition: str) -> None:
    gone = months.leaves[3:4]
    del months.leaves[3:]
    months.dropped = [manifest(partition, gone)]
    found = [(finding.number, finding.fault) for finding in verify(months, []).findings]
    assert found == [(5, Fault.ARCHIVE_CHANGED), (5, Fault.MISSING)]


def test_what_was_sealed_after_a_round_of_april_was_not_of_february(months: Trail) -> None:
    gone = months.leaves[3:]
    del months.leaves[3:]
    for xid in (200, 202):
        snapshot = Snapshot(xid, xid, frozenset())
        months.others.append(
            seals.make(
                UUID(int=8), [event(xid, xid=xid)], after=(0, NOTHING_BEFORE), sealed_at=_APRIL, xid=xid,
                snapshot=snapshot,
            )
        )  # fmt: skip
    months.seal(gone[1:], xid=210, snapshot="210:210:")
    months.dropped = [manifest("audit_events_1970_02", gone)]
    assert (6, Fault.MISSING) in [(finding.number, finding.fault) for finding in verify(months, []).findings]


def test_a_manifest_of_what_is_there_is_none(months: Trail) -> None:
    gone = months.leaves[0:3]
    del months.leaves[0:2]
    months.dropped = [manifest(JANUARY, gone)]
    assert {finding.fault for finding in verify(months, []).findings} == {Fault.ARCHIVE_CHANGED}


def test_checkpoints_name_every_manifest_of_their_time(months: Trail) -> None:
    gone = months.leaves[:3]
    months.leaves = months.leaves[3:]
    months.dropped = [manifest(JANUARY, gone)]
    before = checkpoint(months)
    none_yet, named = (replace(before, archives=each) for each in ({}, {JANUARY: months.dropped[0].digest}))
    for known in ([before], [none_yet], [none_yet, named], [named]):
        assert verify(months, known).findings == []
    months.dropped = [manifest(JANUARY, gone[:2])]
    months.leaves.append(gone[2])
    assert verify(months, [none_yet, replace(named, number=2)]).findings[0].fault is Fault.ARCHIVE_CHANGED
    months.leaves += gone[:2]
    months.dropped = []
    found = verify(months, [named, replace(none_yet, number=2)]).findings
    assert [finding.fault for finding in found] == [Fault.ARCHIVE_CHANGED]
