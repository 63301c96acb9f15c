"""What a run came to: kept as JSON, shown as the tables of docs/reliability.md."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from domain.frozen import Frozen


class Spread(Frozen):
    """How far measured values spread."""

    count: int
    p50: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None where nothing was measured."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(
            count=len(ordered), p50=_quantile(ordered, 0.5), p95=_quantile(ordered, 0.95), most=float(ordered[-1])
        )

    def __str__(self) -> str:
        return f"{self.p50:.2f} / {self.p95:.2f} / {self.most:.2f} ({self.count})"


def _quantile(ordered: Sequence[float], share: float) -> float:
    # The nearest rank: a value that was measured, not one between two.
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])


class Results(Frozen):
    """One run. Times in seconds; faults by name."""

    begun_at: datetime
    seconds: float
    seed: int
    lease_s: float
    sweep_every_s: float
    checkpoint_every_steps: int
    engine: str
    faults: Mapping[str, int]
    # How often each point was reached by a process that was armed there, by act.
    failpoints: Mapping[str, Mapping[str, int]]
    jobs: Mapping[str, int]
    versions: int
    # Breaches of each promise; one that was kept is not named.
    broken: Mapping[str, Sequence[str]]
    reclaim_s: Spread | None
    redone_steps: Spread | None

    def table(self) -> str:
        """For people, as Markdown."""
        rows = [
            ("seed, seconds", f"{self.seed}, {self.seconds:.0f}"),
            ("lease, sweep every", f"{self.lease_s:g} s, {self.sweep_every_s:g} s"),
            *((f"fault: {name}", f"{number:,}") for name, number in sorted(self.faults.items())),
            ("failpoints: reached, fewest at one", f"{self._reached:,}, {self._fewest}"),
            *((f"jobs {state}", f"{number:,}") for state, number in sorted(self.jobs.items())),
            ("versions", f"{self.versions:,}"),
            *((f"**broken**: {promise}", f"{len(told)}") for promise, told in self.broken.items()),
            ("promises broken", "none" if not self.broken else str(len(self.broken))),
            ("from the last renewal to the next claim, p50 / p95 / most", f"{self.reclaim_s or 'none'}"),
            ("steps done again after a lost worker, p50 / p95 / most", f"{self.redone_steps or 'none'}"),
            ("steps between checkpoints", str(self.checkpoint_every_steps)),
        ]
        return "\n".join(["| what | number |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    @property
    def _reached(self) -> int:
        return sum(sum(acts.values()) for acts in self.failpoints.values())

    @property
    def _fewest(self) -> int:
        return min((sum(acts.values()) for acts in self.failpoints.values()), default=0)
