"""The trail in a file of the service's: one JSON object a line, each of a kind; see `docs/audit.md`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from evidence.archives import Archive, span
from evidence.canonical import read_json
from evidence.events import Leaf, chain_of, leaf, row_of
from evidence.rounds import Rounds
from evidence.seals import Seal, from_json


class ExportInvalid(Exception):  # noqa: N818 - named for the fact
    """The file is no export, or one of a part of the trail only, which nothing can be proved of."""


@dataclass
class ExportTrail:
    """Everything of the file, events as their digests: 100 bytes an event."""

    _events: dict[UUID, list[Leaf]] = field(default_factory=lambda: defaultdict(list))
    _seals: dict[UUID, list[tuple[Seal, bytes]]] = field(default_factory=lambda: defaultdict(list))
    _archives: list[Archive] = field(default_factory=list)
    _rounds: Rounds | None = None

    @classmethod
    def read(cls, path: Path) -> "ExportTrail":
        """Read a file. Raises ExportInvalid, OSError."""
        try:
            with path.open(encoding="utf-8") as file:
                return cls.parse(file)
        except UnicodeDecodeError as error:
            raise ExportInvalid(f"{path} is no text: a compressed export has to be unpacked first") from error

    @classmethod
    def parse(cls, lines: TextIO) -> "ExportTrail":
        """Read an export's lines. Raises ExportInvalid."""
        trail, number = cls(), 0
        for number, line in enumerate(lines, start=1):
            try:
                trail._take(read_json(line), first=number == 1)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise ExportInvalid(f"line {number} is not of an export") from error
        if number == 0:
            raise ExportInvalid("the file is empty: it has not even an export's first line")
        for events in trail._events.values():
            events.sort(key=lambda each: (each.number, each.occurred_at))
        return trail

    def chains(self) -> list[UUID]:
        """Every chain that has events or seals."""
        return sorted({*self._events, *self._seals})

    def events(self, chain: UUID) -> Iterator[Leaf]:
        """A chain's events by number."""
        return iter(self._events.get(chain, ()))

    def seals(self, chain: UUID) -> Iterator[tuple[Seal, bytes]]:
        """A chain's seals in order, each with the digest it is said to have."""
        return iter(self._seals.get(chain, ()))

    def archives(self) -> Sequence[Archive]:
        """The months that were dropped."""
        return self._archives

    def newest_seal(self) -> Seal | None:
        """The last seal of all chains."""
        lasts = (seals[-1][0] for seals in self._seals.values())
        return max(lasts, key=lambda seal: seal.xid, default=None)

    def rounds(self) -> Rounds:
        """The sealer's rounds, of all chains."""
        if self._rounds is None:
            made = [seal for seals in self._seals.values() for seal, _ in seals if seal.is_well_formed()]
            self._rounds = Rounds(sorted(seal.round() for seal in made))
        return self._rounds

    def _take(self, line: dict[str, Any], *, first: bool) -> None:
        if first:
            if line.get("kind") != "tsugiki.audit.export/1" or line["filters"]:
                raise ExportInvalid("this is no export of the whole trail: nothing can be proved of a part")
        elif "event" in line:
            row = row_of(line["event"])
            found = leaf(row)
            if not all(type(each) is int for each in (found.number, found.xid, found.occurred_at)):
                raise TypeError("an event's place is told in integers")
            self._events[chain_of(row)].append(found)
        elif "seal" in line:
            seal, digest = from_json(line["seal"])
            self._seals[seal.chain].append((seal, digest))
        else:
            self._archives.append(archive_of(line["archive"]))


def archive_of(said: dict[str, Any]) -> Archive:
    """A manifest of a dropped month as exports show it. Raises KeyError, TypeError."""
    if not isinstance(said["partition"], str):
        raise TypeError("a partition is told by its name")
    numbers = [span(*bounds) for bounds in said["numbers"]]
    return Archive(said["partition"], numbers, said["events"], said["leaves_sha256"])
