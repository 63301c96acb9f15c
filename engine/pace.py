"""Whether one rank computes more slowly than its peers, who wait for it at every step."""

from collections.abc import Sequence
from statistics import median

# A rank is slow if over so many ticks it was busy for so much longer than the median of the others.
TICKS = 20
SLOW_FACTOR = 1.5


class Pace:
    """How long each rank's passes took. Every rank hears the same numbers and comes to the same remark."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._own_s = 0.0
        self._heard: list[list[float]] = []

    def count(self, busy_s: float) -> None:
        """This rank's passes of a tick, without waiting for anybody."""
        self._own_s = busy_s

    def own(self, rank: int) -> list[float]:
        """One number a rank, nought but for this one: their maximum over the ranks is everybody's."""
        return [self._own_s if place == rank else 0.0 for place in range(self._world_size)]

    def hear(self, busy_s: Sequence[float]) -> str | None:
        """Take in a tick of all ranks; now and then, a remark that names a slow one."""
        if self._world_size == 1:
            return None
        self._heard.append(list(busy_s))
        if len(self._heard) < TICKS:
            return None
        # Medians: one long row or one busy second is no news.
        usual = [median(ticks) for ticks in zip(*self._heard, strict=True)]
        self._heard = []
        slowest = usual.index(max(usual))
        others = median(seconds for rank, seconds in enumerate(usual) if rank != slowest)
        if usual[slowest] <= SLOW_FACTOR * others:
            return None
        return (
            f"Rank {slowest} of {self._world_size} is slow: {usual[slowest]:.2f} s a step, the others {others:.2f} s."
        )
