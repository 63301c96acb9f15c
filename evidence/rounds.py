"""The sealer's rounds, of all chains: what a transaction that began after one cannot have had from before it."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

# The database's clock may be set back by so much, in microseconds, before its times are held against it.
CLOCK_SLACK = 60_000_000


class Rounds:
    """Each round's transaction, the time of its seals, and the highest number sealed so far: 32 bytes a round."""

    def __init__(self, rounds: Iterable[tuple[int, int, int, int]]) -> None:
        """From (xid, sealed_at, last_number, xmin of its snapshot), by xid; a round may be given for each seal."""
        self._xids, self._times, self._numbers, self._xmins = (array("q") for _ in range(4))
        highest = 0
        for xid, sealed_at, last_number, xmin in rounds:
            highest = max(highest, last_number)
            self._xids.append(xid)
            self._times.append(sealed_at)
            self._numbers.append(highest)
            self._xmins.append(xmin)

    def is_out_of_time(self, xid: int, number: int, occurred_at: int) -> bool:
        """Whether the last round that was made before that transaction began had a higher number, or was later."""
        place = bisect_left(self._xids, xid) - 1
        return place >= 0 and (number < self._numbers[place] or occurred_at < self._times[place] - CLOCK_SLACK)

    def began_after(self, xid: int) -> int | None:
        """When the last round was made before that transaction began; None where there was none."""
        place = bisect_left(self._xids, xid) - 1
        return self._times[place] if place >= 0 else None

    def sealed_first_by(self, xid: int) -> int | None:
        """A moment before whatever that round's seals are the first to name; None where nothing is known.

        What the round before did not see is of a transaction that is not older than the oldest that ran then.
        """
        place = bisect_left(self._xids, xid) - 1
        return self.began_after(self._xmins[place]) if place >= 0 else None
