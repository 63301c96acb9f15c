"""Whose turn it is: the departments' use of devices of late, each by its weight.

`claimable_jobs` in the migrations says the same in SQL, and a test holds the two together. Use fades by half in every
half-life, as in Kay and Lauder, "A Fair Share Scheduler", CACM 31 (1), 1988, and in Slurm's multifactor priority.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

# What a running job counts for until it has used more, and a waiting one when places are given: claims that follow
# each other at once must see each other.
QUANTUM_S = 60.0


@dataclass(frozen=True)
class Spell:
    """A device-time that somebody used: seconds times ranks, and how long ago it ended."""

    device_s: float
    ended_ago_s: float


@dataclass(frozen=True)
class Hold:
    """A lease that somebody holds. shared_by: jobs that have leases on the same ranks, its own counted."""

    held_s: float
    ranks: int = 1
    shared_by: int = 1


@dataclass(frozen=True)
class Waiting:
    """A queued job. Its id is a UUIDv7, which sorts by the time of its making."""

    job: UUID
    priority: int = 0


@dataclass(frozen=True)
class Standing:
    """A department before a claim. served_ago_s: since it was last given a device; None for never."""

    department: UUID
    weight: float = 1.0
    spells: Sequence[Spell] = ()
    holds: Sequence[Hold] = ()
    waiting: Sequence[Waiting] = ()
    max_running_jobs: int | None = None
    served_ago_s: float | None = None

    @property
    def may_run(self) -> bool:
        """Whether it is below its limit of running jobs."""
        return self.max_running_jobs is None or len(self.holds) < self.max_running_jobs

    def device_s(self, half_life_s: float) -> float:
        """What it used of late, and what it uses now."""
        faded: float = sum(spell.device_s * 0.5 ** (spell.ended_ago_s / half_life_s) for spell in self.spells)
        return faded + sum(max(hold.held_s, QUANTUM_S) * hold.ranks / hold.shared_by for hold in self.holds)


def order(standings: Iterable[Standing], half_life_s: float) -> list[UUID]:
    """Queued jobs in the order in which workers should take them.

    A department's own by priority, then by age. Between departments the one that used least for its weight comes first;
    each place that it is given counts as a little use, so that one of many jobs does not take all places.
    """
    places = []
    for standing in standings:
        if not standing.may_run:
            continue
        used_s = standing.device_s(half_life_s)
        own = sorted(standing.waiting, key=lambda each: (-each.priority, each.job))
        for place, each in enumerate(own):
            share = (used_s + place * QUANTUM_S) / standing.weight
            served_first = -(standing.served_ago_s or 0.0)
            places.append((share, standing.served_ago_s is not None, served_first, each.job))
    return [place[-1] for place in sorted(places)]
