"""`python -m benchmarks.fairness`: fair shares beside first come, first served, in a simulated week of waiting.

Twenty departments submit ten thousand jobs to eight workers. The order is `domain.fair_share`'s own, which a test
holds to what the database does; only time is simulated. Jain's index is that of R. Jain, D. Chiu and W. Hawe,
DEC-TR-301, 1984: 1 where every department got the same device-seconds for its weight, 1/n where one got all.
"""

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from uuid import UUID

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.process import ROOT
from benchmarks.reports import say
from benchmarks.summaries import percentile
from benchmarks.tables import table
from domain.fair_share import Hold, Spell, Standing, Waiting, order

HALF_LIFE_S = 86_400.0
WORKERS = 8
WAITS = ("the others wait, median", "p95", "longest", "it waits, median")
# A job of a few minutes, sometimes of an hour.
MEAN_JOB_S, SPREAD = 480.0, 0.8
PLOT = ROOT / "docs" / "images" / "fair-share.svg"


@dataclass(frozen=True)
class Asked:
    """A job: whose, when it is submitted, how long it takes."""

    job: UUID
    department: int
    at_s: float
    takes_s: float


@dataclass
class Ran:
    """A job and when it began."""

    asked: Asked
    began_s: float

    @property
    def waited_s(self) -> float:
        """From its submission to its start."""
        return self.began_s - self.asked.at_s


@dataclass
class _Department:
    """What a simulated department has used, holds and waits for."""

    weight: float
    used_s: float = 0.0
    used_at_s: float = 0.0
    began_s: dict[UUID, float] = field(default_factory=dict)
    waiting: deque[Asked] = field(default_factory=deque)

    def use(self, took_s: float, now_s: float) -> None:
        """A job of so many device-seconds has ended."""
        self.used_s, self.used_at_s = self.used_s * self._faded(now_s) + took_s, now_s

    def _faded(self, now_s: float) -> float:
        return float(0.5 ** ((now_s - self.used_at_s) / HALF_LIFE_S))

    def standing(self, number: int, now_s: float) -> Standing:
        """As the formula wants it: all it has used as one spell, and of its jobs the next."""
        return Standing(
            department=UUID(int=number),
            weight=self.weight,
            spells=[Spell(self.used_s, now_s - self.used_at_s)],
            holds=[Hold(now_s - began_s, 1) for began_s in self.began_s.values()],
            waiting=[Waiting(each.job) for each in list(self.waiting)[:1]],
        )


Choose = Callable[[Sequence[_Department], float], int]


def by_share(departments: Sequence[_Department], now_s: float) -> int:
    """The department whose turn it is."""
    waiting = {each.waiting[0].job: number for number, each in enumerate(departments) if each.waiting}
    standings = [departments[number].standing(number, now_s) for number in waiting.values()]
    return waiting[order(standings, HALF_LIFE_S)[0]]


def by_age(departments: Sequence[_Department], _now_s: float) -> int:
    """First come, first served."""
    waiting = [number for number, each in enumerate(departments) if each.waiting]
    return min(waiting, key=lambda number: (departments[number].waiting[0].at_s, departments[number].waiting[0].job))


ORDERS: dict[str, Choose] = {"first come, first served": by_age, "fair shares": by_share}


def simulate(asked: Iterable[Asked], weights: Sequence[float], choose: Choose, workers: int = WORKERS) -> list[Ran]:
    """Run all jobs in an order, by events in time."""
    coming = deque(sorted(asked, key=lambda each: (each.at_s, each.job)))
    departments = [_Department(weight) for weight in weights]
    running: list[tuple[float, UUID, Asked]] = []
    ran: list[Ran] = []
    now_s = 0.0
    while coming or running or any(each.waiting for each in departments):
        while coming and coming[0].at_s <= now_s:
            each = coming.popleft()
            departments[each.department].waiting.append(each)
        while len(running) < workers and any(each.waiting for each in departments):
            chosen = departments[choose(departments, now_s)]
            each = chosen.waiting.popleft()
            chosen.began_s[each.job] = now_s
            ran.append(Ran(each, now_s))
            heapq.heappush(running, (now_s + each.takes_s, each.job, each))
        now_s = min([each.at_s for each in list(coming)[:1]] + [end_s for end_s, *_ in running[:1]], default=now_s)
        while running and running[0][0] <= now_s:
            _, job, each = heapq.heappop(running)
            departments[each.department].use(now_s - departments[each.department].began_s.pop(job), now_s)
    return ran


def jain(shares: Sequence[float]) -> float:
    """Jain's index of what each got."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def shares_at(ran: Iterable[Ran], weights: Sequence[float], until_s: float) -> list[float]:
    """Device-seconds of each department up to a time, for its weight."""
    got = [0.0] * len(weights)
    for each in ran:
        got[each.asked.department] += max(0.0, min(each.began_s + each.asked.takes_s, until_s) - each.began_s)
    return [share / weight for share, weight in zip(got, weights, strict=True)]


def all_at_once(departments: int, jobs: int, chance: random.Random) -> list[Asked]:
    """Every department submits its whole backlog, one department after another, within a minute."""
    each = jobs // departments
    return [
        _asked(chance, number // each, 60.0 * number / jobs) for number in range(each * departments)
    ]  # fmt: skip


def one_floods(departments: int, jobs: int, chance: random.Random) -> list[Asked]:
    """The first department submits half of all jobs at once; the others the rest, in the time all of it takes."""
    span_s = jobs * MEAN_JOB_S / WORKERS
    return [
        _asked(chance, 0, 0.0) if number < jobs // 2
        else _asked(chance, 1 + number % (departments - 1), chance.uniform(0, span_s))
        for number in range(jobs)
    ]  # fmt: skip


def _asked(chance: random.Random, department: int, at_s: float) -> Asked:
    takes_s = chance.lognormvariate(0, SPREAD) * MEAN_JOB_S / math.exp(SPREAD**2 / 2)
    return Asked(UUID(int=chance.getrandbits(128)), department, at_s, takes_s)


def main() -> None:
    """Simulate both ways of submitting in both orders; tell the tables, draw the waiting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__.partition("\n")[0])
    parser.add_argument("--departments", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    weights = [1.0 if number % 4 else 2.0 for number in range(options.departments)]
    backlog = all_at_once(options.departments, options.jobs, random.Random(options.seed))  # noqa: S311 - a simulation
    flood = one_floods(options.departments, options.jobs, random.Random(options.seed))  # noqa: S311
    say(_shares_table({name: simulate(backlog, weights, choose) for name, choose in ORDERS.items()}, weights))
    flooded = {name: simulate(flood, weights, choose) for name, choose in ORDERS.items()}
    say(_waits_table(flooded))
    _plot({name: _waits(ran, of_flooder=False) for name, ran in flooded.items()}, PLOT)
    say(f"{options.jobs:,} jobs of {_told(mean(each.takes_s for each in flood))} on average, {WORKERS} workers")


def _shares_table(simulated: Mapping[str, list[Ran]], weights: Sequence[float]) -> str:
    lines = []
    for name, ran in simulated.items():
        half_s = sum(each.asked.takes_s for each in ran) / WORKERS / 2
        lines.append((name, f"{jain(shares_at(ran, weights, half_s)):.3f}"))
    return table(("every department submits its backlog at once", "Jain's index when half of the work is done"), lines)


def _waits_table(simulated: Mapping[str, list[Ran]]) -> str:
    lines = []
    for name, ran in simulated.items():
        others, own = _waits(ran, of_flooder=False), _waits(ran, of_flooder=True)
        figures = (median(others), percentile(others, 95), max(others), median(own))
        lines.append((name, *map(_told, figures)))
    return table(("one department submits half of all jobs at once", *WAITS), lines)


def _waits(ran: Iterable[Ran], *, of_flooder: bool) -> list[float]:
    return [each.waited_s for each in ran if (each.asked.department == 0) == of_flooder]


def _told(seconds: float) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min"


def _plot(waits: dict[str, list[float]], path: Path) -> None:
    with mpl.rc_context({"svg.hashsalt": "tsugiki", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axes = figure.subplots()
        for name, waited_s in waits.items():
            ordered = sorted(waited_s)
            axes.plot(
                [seconds / 60 + 0.01 for seconds in ordered],
                [(place + 1) / len(ordered) for place in range(len(ordered))],
                label=name,
            )
        axes.set(
            xscale="log",
            xlabel="minutes from submission to start",
            ylabel="share of the other departments' jobs",
            title="While another department has submitted half of all jobs at once",
        )
        axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
