"""One run: faults by a seed while jobs come in, then quiet until all have ended, then the checker."""

import os
import random
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from chaos import faults, measures
from chaos.checker import LOCKS, MAX_LOCK_S, Finding
from chaos.faults import Arm
from chaos.installation import TRAIN, Installation
from chaos.pieces import Piece
from chaos.results import Results, Spread
from chaos.workload import Workload
from domain.failpoints import FailPoint
from runtime.failpoints import Act

TICK_S = 0.05
# What is killed or stopped, by weight: mostly workers that hold a job, since a start that is cut short tells little.
AT_WORK, ANY_PIECE, A_RANK = "a worker at work", "any process", "a rank"
VICTIMS = {AT_WORK: 6, ANY_PIECE: 2, A_RANK: 1}
ORPHANS_GONE_AFTER_S = 5.0
RANKS_GONE = "ranks are gone 5 s after their supervisor's SIGKILL"
# An armed process that is not led to its point in this time is given up; its round is tried again.
ARMED_FOR_S = 25.0
UNARMED_FOR_S = 3.0
# Until all jobs have ended, when nothing is broken any more: in leases, and at least.
SETTLE_LEASES, SETTLE_AT_LEAST_S = 15, 240.0
WITH_RANKS = "SIGKILL of a supervisor with ranks"
_HIT = re.compile(r"failpoint ([a-z_.]+): (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """How much is to happen, within limit_s. Times between faults are means, in seconds.

    supervisors: so many kills at least are of workers whose ranks run. erasing: files are erased meanwhile, each with a
    job of its own, for which other jobs have to wait.
    """

    seed: int = 1
    kills: int = 200
    stops: int = 40
    rounds: int = 2
    strikes: int = 20
    supervisors: int = 0
    unfinished: int = 12
    erasing: bool = True
    limit_s: float = 3600.0
    between_signals_s: float = 0.3
    between_strikes_s: float = 4.0


@dataclass
class Watched:
    """A piece, and what is known of its present life."""

    piece: Piece
    arm: Arm | None = None
    started_at: float = 0.0
    read_bytes: int = 0
    continue_at: float | None = None
    end_at: float | None = None


class Chaos:
    """Injects what the plan says. `run` may be called once."""

    def __init__(self, installation: Installation, workload: Workload, plan: Plan) -> None:
        self._installation, self._workload, self._plan = installation, workload, plan
        self._rng = random.Random(plan.seed)  # noqa: S311 - repeatable, not secret
        self._begun = now = time.monotonic()
        self._watched = [Watched(piece, started_at=now) for piece in installation.pieces]
        self._arms = faults.rounds(plan.rounds, self._rng)
        self._strikes = [name for name in faults.STRIKES for _ in range(plan.strikes // len(faults.STRIKES) + 1)]
        self._rng.shuffle(self._strikes)
        del self._strikes[plan.strikes :]
        self._faults: Counter[str] = Counter()
        self._reached: dict[str, Counter[str]] = defaultdict(Counter)
        self._findings: list[Finding] = []
        self._to_be_gone: list[tuple[float, list[psutil.Process]]] = []
        self._stopped_ranks: list[tuple[float, int]] = []
        self._next_signal_at = self._next_strike_at = now + 1
        self._healed_at: float | None = None
        self._looked_at = now

    def run(self) -> Results:
        """Until all faults have happened and every job has ended."""
        begun_at = datetime.now(UTC)
        enough = threading.Event()
        customers = [threading.Thread(target=self._workload.keep_busy, args=(self._plan.unfinished, enough))]
        if self._plan.erasing:
            customers.append(threading.Thread(target=self._workload.keep_erasing, args=(enough,)))
        for customer in customers:
            customer.start()
        try:
            while not self._all_done():
                if not all(customer.is_alive() for customer in customers):
                    raise RuntimeError("nobody submits jobs, or erases files, any more")
                self._tick()
                time.sleep(TICK_S)
        finally:
            enough.set()
            self._quiet()
            for customer in customers:
                customer.join()
        self._settle()
        self._findings += self._installation.checker.check(self._workload.expected)
        return self._results(begun_at, time.monotonic() - self._begun)

    def _all_done(self) -> bool:
        if time.monotonic() - self._begun > self._plan.limit_s:
            return True
        plan, armed = self._plan, any(watched.arm for watched in self._watched)
        signals = self._faults["SIGKILL"] >= plan.kills and self._faults["SIGSTOP"] >= plan.stops
        signals = signals and self._faults[WITH_RANKS] >= plan.supervisors
        return signals and not (self._arms or armed or self._strikes or self._healed_at)

    # --- one look -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        for watched in self._watched:
            self._look_at(watched, now)
        self._look_for_orphans(now)
        self._continue_ranks(now)
        if self._healed_at is not None and now >= self._healed_at:
            self._heal()
        if now >= self._next_signal_at:
            self._signal(now)
        if self._strikes and self._healed_at is None and now >= self._next_strike_at:
            self._strike(now)
        if now - self._looked_at > 1:
            self._looked_at = now
            self._look_for_locks()

    def _look_at(self, watched: Watched, now: float) -> None:
        # Asked before its log is read: what a process wrote before its end is then among it.
        alive = watched.piece.alive
        self._read_hits(watched, now)
        if watched.continue_at is not None and now >= watched.continue_at:
            watched.piece.send(signal.SIGCONT)
            watched.continue_at = None
        if watched.end_at is None and watched.arm is None and self._place_of_arm(watched.piece) is not None:
            # It goes about its work for a while, and is then started anew, armed.
            watched.end_at = now + UNARMED_FOR_S
        if watched.end_at is not None and now >= watched.end_at:
            self._kill(watched)
        if not alive:
            self._start(watched, now)

    def _read_hits(self, watched: Watched, now: float) -> None:
        log = watched.piece.log
        if not log.exists() or log.stat().st_size == watched.read_bytes:
            return
        with log.open("rb") as stream:
            stream.seek(watched.read_bytes)
            new = stream.read()
        # Up to the last complete line.
        new = new[: new.rfind(b"\n") + 1]
        watched.read_bytes += len(new)
        for point, act in _HIT.findall(new.decode(errors="replace")):
            self._note_hit(watched, point, Act(act), now)

    def _note_hit(self, watched: Watched, point: str, act: Act, now: float) -> None:
        self._reached[point][act] += 1
        watched.arm = None
        if act is Act.KILL:
            self._faults["SIGKILL"] += 1
            self._faults["SIGKILL of itself at a failpoint"] += 1
        elif act is Act.STOP:
            self._faults["SIGSTOP"] += 1
            self._faults["SIGSTOP of itself at a failpoint"] += 1
            watched.continue_at = now + self._long()
            watched.end_at = watched.continue_at + 1
        else:
            watched.end_at = now + self._installation.shape.lease_s

    def _long(self) -> float:
        """Half a lease to two and a half: some wake in time, most do not."""
        return self._rng.uniform(0.5, 2.5) * self._installation.shape.lease_s

    def _start(self, watched: Watched, now: float) -> None:
        if watched.arm is not None:
            # Something else took it before it came to its point.
            self._arms.append(watched.arm)
        watched.arm, watched.continue_at, watched.end_at = self._arm_for(watched.piece), None, None
        watched.started_at = now
        if watched.arm is None:
            watched.piece.start()
            return
        watched.end_at = now + ARMED_FOR_S
        watched.piece.start(failpoints=watched.arm.setting(self._installation.shape.lease_s * 1.5))

    def _arm_for(self, piece: Piece) -> Arm | None:
        place = self._place_of_arm(piece)
        return None if place is None else self._arms.pop(place)

    def _place_of_arm(self, piece: Piece) -> int | None:
        # One worker at least goes about its work unarmed, so that jobs end.
        if piece.name == f"{TRAIN}-1":
            return None
        role = piece.name.partition("-")[0]
        return next((place for place, arm in enumerate(self._arms) if faults.role_of(arm.point) == role), None)

    # --- signals ------------------------------------------------------------------------------------------------------

    def _signal(self, now: float) -> None:
        self._next_signal_at = now + self._rng.expovariate(1 / self._plan.between_signals_s)
        kills, stops = self._plan.kills - self._faults["SIGKILL"], self._plan.stops - self._faults["SIGSTOP"]
        if kills <= 0 and stops <= 0:
            self._kill_supervisor()
            return
        number = signal.SIGKILL if self._rng.random() * (max(kills, 0) + max(stops, 0)) < kills else signal.SIGSTOP
        kind = self._rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if kind == A_RANK:
            self._signal_rank(number, now)
            return
        watched = self._victim(kind)
        if watched is None:
            return
        if number is signal.SIGKILL:
            self._kill(watched)
        elif watched.continue_at is None and watched.piece.send(signal.SIGSTOP):
            watched.continue_at = now + self._long()
            self._faults["SIGSTOP"] += 1
        self._faults[f"{number.name} of {watched.piece.name.partition('-')[0]}"] += 1

    def _kill_supervisor(self) -> None:
        watched = self._victim(AT_WORK)
        if self._faults[WITH_RANKS] < self._plan.supervisors and watched and _children(watched.piece.pid):
            self._kill(watched)

    def _victim(self, kind: str) -> Watched | None:
        alive = [watched for watched in self._watched if watched.piece.alive]
        if kind == AT_WORK:
            holders = {holder.rpartition(":")[2] for holder in self._installation.checker.leaseholders()}
            alive = [watched for watched in alive if str(watched.piece.pid) in holders]
        return self._rng.choice(alive) if alive else None

    def _kill(self, watched: Watched) -> None:
        children = _children(watched.piece.pid)
        if watched.piece.send(signal.SIGKILL):
            self._faults["SIGKILL"] += 1
            if children:
                self._faults[WITH_RANKS] += 1
                self._to_be_gone.append((time.monotonic() + ORPHANS_GONE_AFTER_S, children))
        watched.end_at = None

    def _signal_rank(self, number: signal.Signals, now: float) -> None:
        ranks = [child for watched in self._watched if watched.piece.alive for child in _children(watched.piece.pid)]
        if not ranks:
            return
        rank = self._rng.choice(ranks)
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(number)
            self._faults[number.name] += 1
            self._faults[f"{number.name} of a rank"] += 1
            if number is signal.SIGSTOP:
                self._stopped_ranks.append((now + self._long(), rank.pid))

    def _continue_ranks(self, now: float) -> None:
        for due in [due for due in self._stopped_ranks if now >= due[0]]:
            self._stopped_ranks.remove(due)
            with suppress(ProcessLookupError):
                os.kill(due[1], signal.SIGCONT)

    def _look_for_orphans(self, now: float) -> None:
        for due in [due for due in self._to_be_gone if now >= due[0]]:
            self._to_be_gone.remove(due)
            for process in due[1]:
                if _runs(process):
                    self._findings.append(Finding(RANKS_GONE, f"process {process.pid}"))

    # --- everything else ----------------------------------------------------------------------------------------------

    def _strike(self, now: float) -> None:
        name = self._strikes.pop()
        lasts_s = faults.STRIKES[name](self._installation, self._rng)
        self._faults[name] += 1
        self._healed_at = now + lasts_s
        self._next_strike_at = self._healed_at + self._rng.expovariate(1 / self._plan.between_strikes_s)

    def _heal(self) -> None:
        for proxy in self._installation.network.all:
            proxy.heal()
        self._healed_at = None

    def _look_for_locks(self) -> None:
        # A second is what our own look may be late.
        for told in self._installation.checker.blocking(MAX_LOCK_S + 1):
            finding = Finding(LOCKS, told)
            if finding not in self._findings:
                self._findings.append(finding)

    def _quiet(self) -> None:
        """No fault is left: everything healed, continued, and started anew without one."""
        self._heal()
        for _, pid in self._stopped_ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for watched in self._watched:
            watched.piece.send(signal.SIGCONT)
            if watched.arm or not watched.piece.alive:
                watched.piece.end()
                watched.piece.start()

    def _settle(self) -> None:
        deadline = time.monotonic() + max(SETTLE_AT_LEAST_S, SETTLE_LEASES * self._installation.shape.lease_s)
        checker = self._installation.checker
        while (checker.unfinished() or checker.under_way()) and time.monotonic() < deadline:
            self._look_for_orphans(time.monotonic())
            for watched in self._watched:
                if not watched.piece.alive:
                    watched.piece.start()
            time.sleep(0.2)

    def _results(self, begun_at: datetime, seconds: float) -> Results:
        shape, engine = self._installation.shape, self._installation.checker.engine
        broken: dict[str, list[str]] = defaultdict(list)
        for finding in self._findings:
            broken[finding.promise].append(finding.told)
        return Results(
            begun_at=begun_at,
            seconds=seconds,
            seed=self._plan.seed,
            lease_s=shape.lease_s,
            sweep_every_s=shape.sweep_every_s,
            checkpoint_every_steps=self._workload.task.checkpoint_every,
            engine="real" if shape.real_engine else "short",
            faults=dict(self._faults),
            failpoints={point: dict(self._reached[point]) for point in FailPoint},
            jobs=dict(measures.jobs_by_end(engine)),
            versions=measures.versions(engine),
            broken=dict(broken),
            reclaim_s=Spread.of(measures.reclaim_seconds(engine, shape.lease_s)),
            redone_steps=Spread.of(self._redone_steps()),
        )

    def _redone_steps(self) -> list[int]:
        if self._installation.shape.real_engine:
            return measures.redone_steps_told(self._installation.checker.engine)
        return list(measures.redone_steps(self._installation.ledger))


def _children(pid: int) -> list[psutil.Process]:
    """The living children of a process, without looking at every process there is."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(child)))
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def keep(results: Results, path: Path) -> None:
    """Write a run's results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(results.model_dump_json(indent=1) + "\n")
