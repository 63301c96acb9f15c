"""The manifest of a dropped month: which numbers its events had, and the digest of their digests.

Whoever can write to the database can write one. So checkpoints name them, and a month has to be one that could have
been dropped: over for a month, and of the time in which its events were sealed.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

_NAME = re.compile("audit_events_([0-9]{4})_([0-9]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEYOND_ALL = 2**63 - 1


class Month(NamedTuple):
    """In microseconds: its bounds, the latter not in it; and when the month after it is over, before which it stays."""

    start: int
    end: int
    droppable_from: int


@dataclass(frozen=True)
class Archive:
    """A month that was dropped: which numbers its events had, and the digest of their digests in that order."""

    partition: str
    # In order.
    numbers: Sequence[range]
    events: int
    leaves_sha256: str

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self.numbers, number, key=lambda part: part.start)
        return place > 0 and number in self.numbers[place - 1]

    @property
    def first(self) -> int:
        """The lowest of its numbers; 0 of a month without events."""
        return self.numbers[0].start if self.numbers else 0

    @cached_property
    def month(self) -> Month | None:
        """Which month it is; None where that is no month's name."""
        named = _NAME.fullmatch(self.partition)
        if named is None:
            return None
        year, month = map(int, named.groups())
        try:
            bounds = [_first_of(year, month + ahead) for ahead in range(3)] if 1 <= month <= 12 else []  # noqa: PLR2004
        except ValueError:
            return None
        return Month(*bounds) if bounds else None

    @cached_property
    def digest(self) -> str:
        """What checkpoints name it by: the SHA-256 of its JSON, without spaces, in hex."""
        parts = [[part.start, part.stop] for part in self.numbers]
        said = [self.partition, parts, self.events, self.leaves_sha256]
        return sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def span(lower: int | None, upper: int | None) -> range:
    """A part of a manifest's numbers, the upper bound not among them; None is no bound."""
    return range(0 if lower is None else lower, _BEYOND_ALL if upper is None else upper)


def refusal(archive: Archive, newest_seal_at: int, slack: int) -> str | None:
    """Why such a month cannot have been dropped when the newest seal was made; None where it can."""
    if archive.month is None:
        return f"there is a manifest of {archive.partition}, which is no month"
    if archive.month.droppable_from > newest_seal_at + slack:
        return f"there is a manifest of {archive.partition}, which is not over for a month"
    return None


def not_as_signed(archives: Iterable[Archive], signed: Iterable[Mapping[str, str]]) -> Iterator[tuple[int, str]]:
    """Manifests that are not as the checkpoints name them, each with its first number. Later ones are in none."""
    ours = {archive.partition: archive for archive in archives}
    named: dict[str, set[str]] = {}
    for each in signed:
        for partition, digest in each.items():
            named.setdefault(partition, set()).add(digest)
    for partition, digests in sorted(named.items()):
        if (archive := ours.get(partition)) is None:
            yield 0, f"the manifest of {partition} is gone"
        elif digests != {archive.digest}:
            yield archive.first, f"the manifest of {partition} is not the one that was signed"


def _first_of(year: int, month: int) -> int:
    """The first moment of a month; the 13th is the next year's first. Raises ValueError."""
    moment = datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)
