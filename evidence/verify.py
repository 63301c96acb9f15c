"""The verifier: reads events and seals, trusts neither, and names the first event that is not as it was sealed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import dropwhile, pairwise
from typing import Protocol
from uuid import UUID

from evidence.archives import Archive, Month, not_as_signed, refusal
from evidence.checkpoints import NO_HEAD, Checkpoint, Head
from evidence.events import NO_FORM, PLATFORM, Leaf
from evidence.rounds import CLOCK_SLACK, Rounds
from evidence.seals import NOTHING_BEFORE, Seal, Snapshot

# A truncated month is one fault, not a million.
MAX_FINDINGS = 100


class Fault(StrEnum):
    """What is wrong with an event or a seal."""

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"
    SEAL_CHANGED = "seal_changed"
    SEAL_MISSING = "seal_missing"
    ARCHIVE_CHANGED = "archive_changed"


_OF_EVENTS = frozenset({Fault.CHANGED, Fault.MISSING, Fault.INSERTED})


@dataclass(frozen=True, order=True)
class Finding:
    """A fault: the number of the first event it touches, in which chain, and a sentence."""

    number: int
    chain: UUID
    fault: Fault
    what: str


class Trail(Protocol):
    """Where events and seals are read: a database, or an export."""

    def chains(self) -> list[UUID]:
        """Every chain that has events or seals."""

    def events(self, chain: UUID) -> Iterator[Leaf]:
        """A chain's events by number."""

    def seals(self, chain: UUID) -> Iterator[tuple[Seal, bytes]]:
        """A chain's seals in order, each with the digest it is said to have."""

    def archives(self) -> Sequence[Archive]:
        """The months that were dropped."""

    def newest_seal(self) -> Seal | None:
        """The last seal of all chains: a round takes them all from one snapshot."""

    def rounds(self) -> Rounds:
        """The sealer's rounds, of all chains."""


@dataclass
class ChainReport:
    """What was found in one chain."""

    chain: UUID
    events: int = 0
    unsealed: int = 0
    archived: int = 0
    seals: int = 0
    findings: list[Finding] = field(default_factory=list)
    # Digests of archived events by number, to be held against the manifests.
    archived_leaves: list[tuple[int, bytes]] = field(default_factory=list)

    def found(self, number: int, fault: Fault, what: str) -> None:
        """Add a fault; the first hundred of a chain are kept."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(number, self.chain, fault, what))


@dataclass(frozen=True)
class Report:
    """What was found in all. unsealed: events newer than the last seal, which nothing proves yet."""

    events: int
    unsealed: int
    archived: int
    seals: int
    chains: int
    checkpoints: int
    findings: list[Finding]
    # The months that were dropped, by the names of their partitions.
    months: list[str]

    @property
    def first_bad(self) -> Finding | None:
        """The fault with the lowest number; an event's before a seal's, which covers many."""
        events = [finding for finding in self.findings if finding.fault in _OF_EVENTS]
        return next(iter(events or self.findings), None)


def verify_chain(
    trail: Trail, chain: UUID, checkpoints: Sequence[Checkpoint], kept_seals: Sequence[Seal] = ()
) -> ChainReport:
    """Hold a chain's events against its seals, and its seals against the checkpoints.

    kept_seals are those of the checkpoints' segments, from the chain's first on: where the database's differ from
    them, they are believed and not the database.
    """
    report = ChainReport(chain)
    reading = _Reading(report, trail.events(chain), manifests(trail, ())[0], trail.rounds())
    following = _Following(report, _heads(checkpoints, chain))
    for seal in _believed(report, trail.seals(chain), kept_seals):
        if following.takes(seal):
            reading.hold_against(seal)
    reading.finish(trail.newest_seal())
    following.finish(reading.last_sealed)
    return report


def manifests(trail: Trail, checkpoints: Sequence[Checkpoint]) -> tuple[list[Archive], list[Finding]]:
    """The manifests that excuse what is not there, and what is wrong with them and with others."""
    newest, accepted, findings = trail.newest_seal(), list[Archive](), list[Finding]()
    for archive in trail.archives():
        what = refusal(archive, newest.sealed_at if newest else 0, CLOCK_SLACK)
        if what is None:
            accepted.append(archive)
        else:
            findings.append(Finding(archive.first, PLATFORM, Fault.ARCHIVE_CHANGED, what))
    signed = [each.archives for each in checkpoints if each.archives is not None]
    for number, what in not_as_signed(trail.archives(), signed):
        findings.append(Finding(number, PLATFORM, Fault.ARCHIVE_CHANGED, what))
    return accepted, findings


def conclude(
    chains: Iterable[ChainReport], archives: Sequence[Archive], checkpoints: int, refused: Iterable[Finding] = ()
) -> Report:
    """All chains together: manifests of dropped months name events of many. refused: what `manifests` found."""
    reports = list(chains)
    findings = [*refused, *(finding for report in reports for finding in report.findings)]
    leaves = dict(pair for report in reports for pair in report.archived_leaves)
    for archive in archives:
        numbers = sorted(number for number in leaves if number in archive)
        digest = sha256(b"".join(leaves[number] for number in numbers)).hexdigest()
        if (len(numbers), digest) != (archive.events, archive.leaves_sha256):
            what = f"the manifest of {archive.partition} is not of the events that were sealed"
            findings.append(Finding(archive.first, PLATFORM, Fault.ARCHIVE_CHANGED, what))
    return Report(
        events=sum(report.events for report in reports),
        unsealed=sum(report.unsealed for report in reports),
        archived=sum(report.archived for report in reports),
        seals=sum(report.seals for report in reports),
        chains=len(reports),
        checkpoints=checkpoints,
        findings=sorted(findings),
        months=[archive.partition for archive in archives],
    )


def verify(
    trail: Trail, checkpoints: Sequence[Checkpoint], kept: Mapping[UUID, Sequence[Seal]] | None = None
) -> Report:
    """All chains, one after the other."""
    named = {chain for each in checkpoints for chain in each.heads}
    chains = sorted({*trail.chains(), *named})
    reports = [verify_chain(trail, chain, checkpoints, (kept or {}).get(chain, ())) for chain in chains]
    archives, refused = manifests(trail, checkpoints)
    return conclude(reports, archives, len(checkpoints), refused)


def _heads(checkpoints: Sequence[Checkpoint], chain: UUID) -> list[Head]:
    """Where the chain stood by each checkpoint, from the first that knows of it."""
    heads = [each.heads.get(chain, NO_HEAD) for each in checkpoints]
    return list(dropwhile(lambda head: head == NO_HEAD, heads))


def _believed(report: ChainReport, said: Iterator[tuple[Seal, bytes]], kept: Sequence[Seal]) -> Iterator[Seal]:
    """The kept seals, then those that only the database has. A difference is a finding."""
    ours = iter(said)
    for seal in kept:
        found = next(ours, None)
        if found is None:
            report.found(seal.first_number, Fault.SEAL_MISSING, f"seal {seal.seal} is gone")
        elif found != (seal, seal.digest):
            report.found(seal.first_number, Fault.SEAL_CHANGED, f"seal {seal.seal} is not the one that was signed")
        yield seal
    for seal, digest in ours:
        if seal.is_well_formed() and seal.digest != digest:
            report.found(seal.numbers[0], Fault.SEAL_CHANGED, f"seal {seal.seal} has not the digest it says")
        yield seal


class _Following:
    """Whether each seal follows the one before, and is the one that every checkpoint knows which names its place."""

    def __init__(self, report: ChainReport, heads: Sequence[Head]) -> None:
        self._report = report
        # A quiet chain stands where it stood in many checkpoints.
        self._heads: dict[int, set[Head]] = {}
        for head in heads:
            self._heads.setdefault(head.seals, set()).add(head)
        for earlier, later in pairwise(heads):
            if later.seals < earlier.seals:
                what = f"a checkpoint knows of {later.seals} seals, and one before it of {earlier.seals}"
                report.found(later.last_number + 1, Fault.SEAL_CHANGED, what)
        self._previous, self._events, self._last_number = NOTHING_BEFORE, 0, 0
        # The first event after the newest seal that a checkpoint vouches for: without segments nobody knows better.
        self._first_in_doubt: int | None = None

    def takes(self, seal: Seal) -> bool:
        """Whether the seal's events can be held against it at all."""
        report, place = self._report, self._report.seals + 1
        report.seals = place
        if not seal.is_well_formed():
            report.found(min(seal.numbers, default=0), Fault.SEAL_CHANGED, f"seal {place} is no seal")
            return False
        first = seal.numbers[0]
        if (seal.seal, seal.previous) != (place, self._previous):
            report.found(first, Fault.SEAL_CHANGED, f"seal {place} does not follow the one before")
        self._previous = seal.digest
        self._first_in_doubt = first if self._first_in_doubt is None else self._first_in_doubt
        self._events, self._last_number = self._events + len(seal.numbers), max(self._last_number, seal.last_number)
        if heads := self._heads.pop(place, None):
            stands = Head(place, self._previous, self._events, self._last_number)
            for what in sorted({_difference(head, stands) for head in heads if head != stands}):
                report.found(self._first_in_doubt, Fault.SEAL_CHANGED, what)
            self._first_in_doubt = None
        return True

    def finish(self, last_sealed: int) -> None:
        """Checkpoints that know of more seals than there are: the chain's end is gone."""
        beyond = [head for heads in self._heads.values() for head in heads if head.seals > self._report.seals]
        if beyond:
            newest = max(beyond, key=lambda head: head.seals)
            what = (
                f"seals {self._report.seals + 1} to {newest.seals} are gone, and with them what proves events after "
                f"{last_sealed}: the chain had {newest.events}, to number {newest.last_number}"
            )
            self._report.found(last_sealed + 1, Fault.SEAL_MISSING, what)


def _difference(said: Head, stands: Head) -> str:
    """What is wrong with a checkpoint that says other than where the chain stood at that place."""
    if said.digest != stands.digest:
        return f"seal {said.seals} is not the one that was signed, or one before it is not"
    return (
        f"a checkpoint has {said.events} events to number {said.last_number} at seal {said.seals}, "
        f"and the seals {stands.events} to {stands.last_number}"
    )


class _Reading:
    """One pass through a chain's events by number, beside its seals."""

    def __init__(
        self, report: ChainReport, events: Iterator[Leaf], archives: Sequence[Archive], rounds: Rounds
    ) -> None:
        self._report, self._events, self._rounds = report, events, rounds
        self._dropped = _Dropped(report, archives)
        self._read: Leaf | None = None
        self._next: Leaf | None = next(events, None)
        # Read, and not yet found in a seal: of transactions that committed later than their numbers say, or nobody's.
        self._waiting: dict[int, Leaf] = {}
        self._before: Seal | None = None
        # When the events of the seal at hand can have been.
        self._since: int | None = None
        self._until = 0
        self.last_sealed = 0

    def hold_against(self, seal: Seal) -> None:
        """Match a seal's events; then nothing that its snapshot saw may be left over."""
        self._since, self._until = self._rounds.sealed_first_by(seal.xid), seal.sealed_at
        for place, number in enumerate(seal.numbers):
            self._match(number, seal.leaf(place))
        self.last_sealed = max(self.last_sealed, seal.last_number)
        self._before = seal
        self._look_at_waiting()

    def finish(self, newest: Seal | None) -> None:
        """Read on to the end: what is left is newer than the last seal of any chain."""
        while (leaf := self._next) is not None:
            self._take(leaf)
        self._look_at_waiting()
        self._before = newest if newest is not None and newest.is_well_formed() else None
        self._look_at_waiting()
        self._report.unsealed = len(self._waiting)

    def _match(self, number: int, digest: bytes) -> None:
        while (leaf := self._next) is not None and leaf.number <= number:
            if leaf.number == number and number not in self._waiting:
                self._advance()
                return self._compare(leaf, digest)
            self._take(leaf)
        if (waited := self._waiting.pop(number, None)) is not None:
            return self._compare(waited, digest)
        archive = self._dropped.month_with(number)
        if archive is None or archive.month is None:
            return self._report.found(number, Fault.MISSING, f"event {number} is gone")
        if not self._can_be_of(archive.month, number):
            what = f"event {number} is gone, and was not of the month that the manifest of {archive.partition} is of"
            return self._report.found(number, Fault.MISSING, what)
        self._report.archived += 1
        self._report.archived_leaves.append((number, digest))
        return None

    def _can_be_of(self, month: Month, number: int) -> bool:
        """Whether the seal at hand, the rounds before it, and the event before that number leave room for the month."""
        if self._until + CLOCK_SLACK < month.start:
            return False
        read = self._read.occurred_at if self._read is not None and self._read.number < number else None
        return all(since is None or since - CLOCK_SLACK < month.end for since in (self._since, read))

    def _take(self, leaf: Leaf) -> None:
        """Put an event aside until a seal names it. A second one of a number is nobody's."""
        self._advance()
        if leaf.number in self._waiting:
            self._report.found(leaf.number, Fault.INSERTED, f"there are two events {leaf.number}")
        self._waiting[leaf.number] = leaf

    def _advance(self) -> None:
        self._report.events += 1
        self._read = self._next
        if self._dropped.archives and self._read is not None:
            self._dropped.hold_against(self._read)
        self._next = next(self._events, None)

    def _compare(self, leaf: Leaf, digest: bytes) -> None:
        if leaf.digest != digest or digest == NO_FORM:
            what = (
                "is not as it was sealed" if digest != NO_FORM else "has no canonical form: the service wrote none such"
            )
            self._report.found(leaf.number, Fault.CHANGED, f"event {leaf.number} {what}")
        elif self._rounds.is_out_of_time(leaf.xid, leaf.number, leaf.occurred_at):
            # Sealed, but only after it had been put there: its time or number is not the database's.
            self._report.found(leaf.number, Fault.INSERTED, _out_of_time(leaf))

    def _look_at_waiting(self) -> None:
        """What the newest seal's snapshot saw and no seal names is nobody's, and what says it was earlier than it is.

        What it did not see may be in a seal to come.
        """
        if self._before is None or not self._waiting:
            return
        snapshot = Snapshot.parse(self._before.snapshot)
        for number, leaf in list(self._waiting.items()):
            if self._rounds.is_out_of_time(leaf.xid, number, leaf.occurred_at):
                what = _out_of_time(leaf)
            elif snapshot.sees(leaf.xid):
                what = f"event {number} was in no seal of its time"
            else:
                continue
            del self._waiting[number]
            self._report.found(number, Fault.INSERTED, what)


class _Dropped:
    """The months that were dropped, of which no event may be there."""

    def __init__(self, report: ChainReport, archives: Sequence[Archive]) -> None:
        self._report, self.archives = report, archives
        # Nearly every event is beyond both.
        self._last_number = max((archive.numbers[-1].stop - 1 for archive in archives if archive.numbers), default=-1)
        self._end = max((archive.month.end for archive in archives if archive.month), default=-(2**63))
        self._told: set[str] = set()

    def month_with(self, number: int) -> Archive | None:
        """The month whose manifest names that number."""
        return next((archive for archive in self.archives if number in archive), None)

    def hold_against(self, leaf: Leaf) -> None:
        """An event that is there must be of no dropped month, neither by number nor by time. Told once a month."""
        if leaf.number > self._last_number and leaf.occurred_at >= self._end:
            return
        for archive in self.archives:
            month = archive.month
            is_of_it = leaf.number in archive or (month is not None and month.start <= leaf.occurred_at < month.end)
            if is_of_it and archive.partition not in self._told:
                self._told.add(archive.partition)
                what = f"event {leaf.number} of {archive.partition} is there, whose manifest says that it was dropped"
                self._report.found(archive.first, Fault.ARCHIVE_CHANGED, what)


def _out_of_time(leaf: Leaf) -> str:
    """What is said of an event whose transaction began after a seal, but whose number or time is from before."""
    return f"event {leaf.number} came after seals that have a higher number or a later time"
