"""`train`: the runs of a plan, together on one base model.

The loop is `Training.run_all`: hear what has been ordered, give the next tick to the runs that have waited longest, do
what is due after their steps. `engine/schedule.py` says whose turn it is, `engine/step.py` takes the steps. Launched
under torchrun, or as a plain process.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from domain.plans import Compute, ControlRecord, RunPlan, RunStopped, TrainPlan
from engine.atomic import write_json
from engine.control import Control, parse_order
from engine.distributed import Ranks, open_ranks
from engine.failures import RunFailed, record_failure
from engine.machine import resolve
from engine.pace import Pace
from engine.paths import Paths
from engine.prepare import Preparation
from engine.progress import Progress
from engine.run import Run
from engine.schedule import Member, next_turns
from engine.step import step_together


def main(arguments: Sequence[str]) -> int:
    """Train every run of the plan. The exit status is 1 where the process, not merely a run, has failed."""
    parser = argparse.ArgumentParser(prog="python -m engine train")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--inputs", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    plan = TrainPlan.model_validate_json(options.plan.read_bytes())
    with open_ranks(plan.compute) as ranks:
        return Training(plan, options.inputs, options.out, ranks).run_all()


class Training:
    """One process group at work on a plan. Every rank goes through the same ticks with the same members."""

    def __init__(self, plan: TrainPlan, inputs: Path, out: Path, ranks: Ranks, *, paths: Paths | None = None) -> None:
        self._plan, self._out, self._ranks = plan, out, ranks
        self._compute: Compute = resolve(plan.compute, ranks.device)
        self._preparation = Preparation(inputs, self._compute, ranks, paths)
        self._control = Control(out / "control.jsonl")
        self._pace = Pace(ranks.world_size)
        self._members: list[Member] = []
        # Those this rank trains, alone or with the others.
        self._runs: dict[str, Run] = {}
        self._progress: dict[str, Progress] = {}
        self._written: dict[str, int] = {}
        self._clock = 0

    def run_all(self) -> int:
        """Train until every run has ended; the exit status."""
        self._control.listen()
        with ExitStack() as files:
            self._files = files
            try:
                for plan in self._plan.runs:
                    self._join(plan)
                while self._hear():
                    self._tick()
            except Exception as error:  # noqa: BLE001 - the edge: no run may end without a word
                self._give_up(error)
                return 1
        return 0

    def _give_up(self, error: Exception) -> None:
        """Something that other ranks may not have seen: they learn of it by this process's end."""
        joined = {member.run for member in self._members}
        unheard = [plan.run for plan in self._plan.runs if plan.run not in joined]
        for run in [*(member.run for member in self._members if member.active), *unheard]:
            record_failure(self._out / run, error)

    # Joining and leaving

    def _join(self, plan: RunPlan, *, late: bool = False) -> None:
        """Take a run in. One that cannot begin has failed, and the others do not notice."""
        try:
            member = self._preparation.read(plan, self._members, runs=len(self._plan.runs))
        except RunFailed as failure:
            record_failure(self._out / plan.run, failure)
            return
        self._members.append(member)
        if late:
            # It waits as long as who has just been served.
            member.turn = self._clock
        self._clock = max(self._clock, member.turn)
        if member.owner in {None, self._ranks.rank}:
            self._prepare(member)

    def _prepare(self, member: Member) -> None:
        writes = self._ranks.rank == (member.owner or 0)
        progress = Progress(
            self._out / member.run / "progress.jsonl", member.run, member.plan.spec.total_steps, writes=writes
        )
        self._progress[member.run] = self._files.enter_context(progress)
        progress.record("phase", member.step, message="preparing")
        try:
            run = self._runs[member.run] = self._preparation.prepare(member)
        except RunFailed as failure:
            self._fail(member, failure)
            return
        self._written[member.run] = member.step
        progress.record("phase", member.step, message="training")
        if run.estimated_bytes:
            progress.record("phase", member.step, message="fits", memory_bytes=run.estimated_bytes)

    def _fail(self, member: Member, failure: Exception) -> None:
        member.active = False
        record_failure(self._out / member.run, failure)

    # Between ticks

    def _hear(self) -> bool:
        """Learn what was ordered and who has ended, on every rank alike; whether anybody is left to train."""
        orders = self._control.read() if self._ranks.leads else []
        ended = [not member.active for member in self._members]
        terminated, any_orders, *rest = self._ranks.largest(
            self._control.terminated, bool(orders), *ended, *self._pace.own(self._ranks.rank)
        )
        for member, gone in zip(self._members, rest, strict=False):
            member.active = member.active and not gone
        self._say(self._pace.hear(rest[len(ended) :]))
        if any_orders:
            orders = self._ranks.hear(orders)
            self._obey([order for line in orders if (order := parse_order(line))])
        if terminated:
            self._stop(self._members)
        return any(member.active for member in self._members)

    def _say(self, remark: str | None) -> None:
        if remark:
            for run, progress in self._progress.items():
                progress.record("phase", self._runs[run].member.step, message=remark)

    def _obey(self, orders: Iterable[ControlRecord]) -> None:
        for order in orders:
            if order.plan and order.run not in {member.run for member in self._members}:
                self._join(order.plan, late=True)
            asked = [member for member in self._members if member.run == order.run and member.active]
            if order.op == "checkpoint":
                for member in asked:
                    self._checkpoint(member)
            elif order.op == "stop":
                self._stop(asked)

    def _stop(self, members: Iterable[Member]) -> None:
        for member in members:
            run = self._runs.get(member.run)
            if member.active and run and run.writes:
                self._checkpoint(member)
                write_json(self._out / member.run / "stopped.json", RunStopped(run=member.run, step=member.step))
            member.active = False

    def _checkpoint(self, member: Member) -> None:
        """Write the run's state, unless it has not moved since it last was."""
        run = self._runs.get(member.run)
        if run is None or not run.writes or self._written[member.run] == member.step:
            return
        self._written[member.run] = run.checkpoint(self._out / member.run / "checkpoints")
        self._progress[member.run].record("checkpoint", member.step)

    # A tick

    def _tick(self) -> None:
        """One step for every run whose turn it is, on all ranks at once."""
        self._clock += 1
        turns = {rank: self._turns(rank) for rank in range(self._ranks.world_size)}
        mine = [self._runs[member.run] for member in turns[self._ranks.rank]]
        if mine:
            self._step(mine)
        for member in {member.run: member for own in turns.values() for member in own}.values():
            member.step += 1
            member.turn = self._clock
        for run in mine:
            if run.member.active:
                self._after_step(run)

    def _turns(self, rank: int) -> list[Member]:
        return next_turns(
            self._members,
            rank=rank,
            world_size=self._ranks.world_size,
            token_budget=self._compute.token_budget,
        )

    def _step(self, runs: Sequence[Run]) -> None:
        """Take the runs' steps together. A pass that fails is taken apart, and whoever's fault it was fails alone."""
        started = time.monotonic()
        steppings = [run.next_step() for run in runs]
        try:
            tick = step_together(steppings, runs[0].path, ranks=self._ranks, token_budget=self._compute.token_budget)
        except Exception as error:
            if runs[0].shared:
                raise
            for run in runs:
                run.adapter.forget_gradient()
            if len(runs) == 1:
                self._fail(runs[0].member, error)
                return
            for run in runs:
                self._step([run])
            return
        seconds = time.monotonic() - started
        self._pace.count(tick.busy_s)
        for run, stepping, stepped in zip(runs, steppings, tick.stepped, strict=True):
            if stepped.failure:
                stepped.failure.step = run.member.step
                self._fail(run.member, stepped.failure)
            else:
                self._progress[run.member.run].record("train", **run.account(stepping, stepped, tick, seconds))

    def _after_step(self, run: Run) -> None:
        """What is due: the run's end, a checkpoint, a validation."""
        member, spec = run.member, run.member.plan.spec
        if member.step == spec.total_steps:
            self._finish(run)
            return
        if member.step % spec.checkpoint_every_steps == 0:
            self._checkpoint(member)
        if spec.validate_every_steps and member.step % spec.validate_every_steps == 0:
            self._validate(run)

    def _validate(self, run: Run) -> None:
        self._progress[run.member.run].record("validation", **run.validate())

    def _finish(self, run: Run) -> None:
        out, member = self._out / run.member.run, run.member
        if run.rows.validation:
            self._progress[member.run].record("phase", member.step, message="validating")
            self._validate(run)
        if run.writes:
            run.export(out / "adapter", self._preparation.base_model)
            write_json(out / "report.json", run.report())
        member.active = False
