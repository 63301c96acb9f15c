"""`train`: the runs of a plan, one after another, on a base model loaded once.

`train_run` is the loop; `engine/step.py` is one optimiser step. Launched under torchrun, or as a plain process.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from domain.plans import Compute, RunPlan, RunStopped, TrainPlan
from engine.atomic import write_json
from engine.base_model import BaseModel, load_base_model, resolve
from engine.chat import ChatTokenizer
from engine.control import Control
from engine.distributed import Ranks, open_ranks
from engine.failures import RunFailed, record_failure
from engine.progress import Progress
from engine.rows import load_chat
from engine.run import Run

log = logging.getLogger(__name__)


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
        """Train each run; one that fails on all ranks alike leaves the others unharmed."""
        self._control.listen()
        try:
            chat = load_chat(self._inputs / "base_model")
            base = load_base_model(self._inputs / "base_model", self._compute.precision, self._ranks.device)
        except Exception as error:  # noqa: BLE001 - the edge: every run gets its failure.json
            for plan in self._plan.runs:
                record_failure(self._out / plan.run, error)
            return 0 if isinstance(error, RunFailed) else 1
        for plan in self._plan.runs:
            try:
                self._train_run(plan, base, chat)
            except RunFailed as failure:
                if self._ranks.leads:
                    record_failure(self._out / plan.run, failure)
            except Exception as error:  # noqa: BLE001 - the edge: a run's failure must not be silent
                record_failure(self._out / plan.run, error)
                # The peers do not know; only the end of this process tells them.
                if self._ranks.world_size > 1:
                    return 1
        return 0

    def _train_run(self, plan: RunPlan, base: BaseModel, chat: ChatTokenizer) -> None:
        out, total_steps = self._out / plan.run, plan.spec.total_steps
        with Progress(out / "progress.jsonl", plan.run, total_steps, writes=self._ranks.leads) as progress:
            first_step = plan.resume_step or 0
            if self._control.orders(plan.run).stop:
                self._report_stopped(plan, first_step)
                return
            progress.record("phase", first_step, message="preparing")
            with Run.prepare(plan, self._inputs, self._compute, base=base, chat=chat, ranks=self._ranks) as run:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
