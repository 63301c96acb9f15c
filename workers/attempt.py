"""One attempt at the jobs of an engine batch: fetch, train together, evaluate, upload. Each ends in a verdict."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from domain.failpoints import FailPoint, failpoint
from domain.plans import Compute, TrainPlan
from domain.refusals import LeaseLost
from runtime.processes import ChildProcess
from runtime.wiring import Runtime
from services.claims import Claim
from workers import verdicts
from workers.calibration import Calibrations
from workers.engine_process import Launcher, Workspace
from workers.fence import Fence
from workers.inputs import BASE_MODEL, link_base_model
from workers.job_run import JobRun
from workers.patience import Patience
from workers.supervisor import EndedBy, Exit, Supervisor
from workers.verdicts import Verdict
from workers.warm import WarmEngine

log = logging.getLogger(__name__)


class Attempt:
    """Jobs of one department on one base model, worked on in a scratch folder. `run` may be called once."""

    def __init__(
        self,
        runtime: Runtime,
        held: Sequence[Claim],
        fence: Fence,
        *,
        stop: threading.Event,
        launcher: Launcher,
        warm: WarmEngine,
        calibrations: Calibrations,
        folder: Path,
    ) -> None:
        self._runtime, self._held, self._fence, self._folder = runtime, held, fence, folder
        self._launcher, self._warm, self._calibrations = launcher, warm, calibrations
        self._supervisor = Supervisor(runtime.settings, fence, stop)
        self._workspace = Workspace.create(folder / "train")
        self._runs = [self._run_of(claim) for claim in held]

    def _run_of(self, held: Claim) -> JobRun:
        return JobRun(
            self._runtime,
            held,
            self._fence,
            supervisor=self._supervisor,
            launcher=self._launcher,
            workspace=self._workspace,
            folder=self._folder / held.job.hex,
        )

    def run(self) -> Iterator[tuple[Claim, Verdict]]:
        """Work on the jobs: each with its verdict, as soon as that is known.

        Raises what ends all of them: LeaseLost, StopAsked, storage's errors.
        """
        link_base_model(self._runtime, self._held[0], self._workspace.inputs, Patience(self._runs[0].pause))
        self._warm.base_model = self._base_model
        ready = []
        for run in self._runs:
            if (verdict := self._settled(run, run.fetch)) is None:
                ready.append(run)
            else:
                yield run.held, verdict
        if not ready:
            return
        failpoint(FailPoint.INPUTS_FETCHED)
        plan = TrainPlan(compute=self._compute(ready), runs=tuple(run.plan for run in ready))
        self._workspace.write_plan(plan)
        ended = self._train(plan, ready)
        for run in ready:
            verdict = self._settled(run, partial(run.verdict, ended, plan.compute))
            if verdict is not None:
                yield run.held, verdict

    def _settled(self, run: JobRun, work: Callable[[], Verdict | None]) -> Verdict | None:
        """What the work came to; what ends it ends this job alone. Raises LeaseLost."""
        try:
            return work()
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever is wrong with one job, the others go on
            return verdicts.of_error(run.held, error, asked=self._fence.asked(run.held.job))

    @property
    def _base_model(self) -> Path:
        """Where the node keeps it."""
        return (self._workspace.inputs / BASE_MODEL).resolve()

    def _compute(self, runs: Sequence[JobRun]) -> Compute:
        """This worker's way of computing. A resumed run, which is alone, keeps the one it began with."""
        return runs[0].compute or self._calibrations.compute_for(
            self._held[0].base_model.digest, self._base_model, self._folder / "calibrate", self._supervisor
        )

    def _train(self, plan: TrainPlan, runs: Sequence[JobRun]) -> Exit:
        def follow() -> bool:
            # Each of them, not only up to the first that has told something.
            told = [run.follow() for run in runs]
            return any(told)

        def ask_to_stop() -> None:
            for run in runs:
                run.order_stop()

        if (waiting := self._warm.take(plan.compute)) is not None:
            ended = self._supervisor.run(
                waiting.child, follow=follow, ask_to_stop=ask_to_stop, begin=lambda: waiting.order(self._workspace)
            )
            # A process that ended before it had told anything of a run has done nothing a cold one could not.
            if ended.by is EndedBy.STOP or any(run.begun for run in runs):
                return self._note(ended, waiting.child)
            log.warning("%s A cold one is started.\n%s", ended.told, waiting.child.log_tail())
        child = self._launcher.describe("train", self._workspace, compute=plan.compute)
        return self._note(self._supervisor.run(child, follow=follow, ask_to_stop=ask_to_stop), child)

    def _note(self, ended: Exit, child: ChildProcess) -> Exit:
        if ended.status:
            jobs = ", ".join(str(claim.job) for claim in self._held)
            log.warning("jobs %s: %s\n%s", jobs, ended.told, child.log_tail())
        return ended
