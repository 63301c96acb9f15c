"""`train`: the runs of a plan, one after another, on a base model loaded once.

`train_run` is the loop; `engine/step.py` is one optimiser step. Launched under torchrun, or as a plain process.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from domain.plans import Compute, RunPlan, RunStopped, TrainPlan
from engine.atomic import write_json
from engine.base_model import resolve
from engine.control import Control
from engine.distributed import Ranks, open_ranks
from engine.items import LoadedBase, work_through
from engine.progress import Progress
from engine.run import Run


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
    """One process group at work on a plan."""

    def __init__(self, plan: TrainPlan, inputs: Path, out: Path, ranks: Ranks) -> None:
        self._plan, self._inputs, self._out, self._ranks = plan, inputs, out, ranks
        self._compute: Compute = resolve(plan.compute, ranks.device)
        self._control = Control(out / "control.jsonl", ranks)

    def run_all(self) -> int:
        """Train each run; the exit status."""
        self._control.listen()
        plans = {plan.run: plan for plan in self._plan.runs}

        def train(loaded: LoadedBase, run: str) -> None:
            self._train_run(plans[run], loaded)

        return work_through(list(plans), self._out, self._ranks, load=self._load_base, work=train)

    def _load_base(self) -> LoadedBase:
        return LoadedBase.load(self._inputs / "base_model", self._compute.precision, self._ranks.device)

    def _train_run(self, plan: RunPlan, loaded: LoadedBase) -> None:
        out, total_steps = self._out / plan.run, plan.spec.total_steps
        with Progress(out / "progress.jsonl", plan.run, total_steps, writes=self._ranks.leads) as progress:
            first_step = plan.resume_step or 0
            if self._control.orders(plan.run).stop:
                self._report_stopped(plan, first_step)
                return
            progress.record("phase", first_step, message="preparing")
            with Run.prepare(plan, self._inputs, self._compute, loaded=loaded, ranks=self._ranks) as run:
                progress.record("phase", first_step, message="training")
                self._train(run, progress)

    def _train(self, run: Run, progress: Progress) -> None:
        """The loop. Orders are taken between steps; whatever is written is complete before the next step begins."""
        spec, checkpoints = run.plan.spec, self._out / run.plan.run / "checkpoints"
        written = run.step
        while run.step < spec.total_steps:
            orders = self._control.orders(run.plan.run)
            if (orders.checkpoint or orders.stop) and run.step > written:
                written = run.checkpoint(checkpoints)
                progress.record("checkpoint", written)
            if orders.stop:
                self._report_stopped(run.plan, run.step)
                return

            progress.record("train", **run.train_step())

            last = run.step == spec.total_steps
            if not last and run.step % spec.checkpoint_every_steps == 0:
                written = run.checkpoint(checkpoints)
                progress.record("checkpoint", written)
            if not last and spec.validate_every_steps and run.step % spec.validate_every_steps == 0:
                progress.record("validation", **run.validate())
        self._finish(run, progress)

    def _finish(self, run: Run, progress: Progress) -> None:
        out = self._out / run.plan.run
        if run.has_validation:
            progress.record("phase", run.step, message="validating")
            progress.record("validation", **run.validate())
        report = run.report()
        if self._ranks.leads:
            run.export(out / "adapter")
            write_json(out / "report.json", report)

    def _report_stopped(self, plan: RunPlan, step: int) -> None:
        if self._ranks.leads:
            (self._out / plan.run).mkdir(parents=True, exist_ok=True)
            write_json(self._out / plan.run / "stopped.json", RunStopped(run=plan.run, step=step))
