"""One attempt at a job: fetch, train, evaluate, upload. It ends in a verdict, which its caller writes down."""

import logging
import threading
from pathlib import Path

from domain.plans import Compute, ControlRecord, RunFailure, RunPlan, RunReport, RunStopped, TrainPlan
from runtime.processes import ChildProcess
from runtime.wiring import Runtime
from services.leases import Claim, ResumePoint
from workers import verdicts
from workers.calibration import Calibrations
from workers.checkpoints import CheckpointUploads
from workers.engine_process import Launcher, Workspace
from workers.evaluating import Evaluating
from workers.fence import Fence
from workers.inputs import BASE_MODEL, fetch_resume_point, fetch_rows, link_base_model, read_checkpoint
from workers.patience import Patience, StopAsked
from workers.progress import ProgressReport
from workers.supervisor import EndedBy, Exit, Supervisor
from workers.verdicts import Verdict
from workers.warm import WarmEngine

log = logging.getLogger(__name__)


class Attempt:
    """One claim being worked on in a scratch folder. `run` may be called once."""

    def __init__(
        self,
        runtime: Runtime,
        held: Claim,
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
        self._run_id = held.job.hex
        self._supervisor = Supervisor(runtime.settings, fence, stop)
        self._workspace = Workspace.create(folder / "train")
        self._out = self._workspace.out / self._run_id

    def run(self) -> Verdict:
        """Work on the job. Raises LeaseLost, StopAsked, Ended, and storage's errors."""
        resume = self._fetch_inputs()
        plan = self._plan(resume)
        self._workspace.write_plan(plan)
        report = ProgressReport(self._runtime, self._held, self._out / "progress.jsonl")
        uploads = self._uploads(report, resume)
        ended = self._train(plan, report, uploads)
        report.send()
        if self._fence.cancel_asked:
            return verdicts.cancelled(self._held)
        if trained := self._workspace.read_result(RunReport, self._run_id, "report.json"):
            return self._finish(plan.compute, trained)
        # Whatever ended the ranks, what they had reached is kept.
        Patience(self._fence.pause).insist(uploads.upload_newest)
        if failure := self._workspace.read_result(RunFailure, self._run_id, "failure.json"):
            return verdicts.of_failure(self._held, failure, resume)
        # Ranks also stop by themselves when somebody ends all processes of a machine.
        stopped = self._workspace.read_result(RunStopped, self._run_id, "stopped.json")
        if stopped or self._supervisor.must_end:
            return verdicts.released(self._held)
        return verdicts.of_exit(self._held, ended)

    def _fetch_inputs(self) -> ResumePoint | None:
        data, inputs = self._held.spec.data, self._workspace.inputs / self._run_id
        patience = Patience(self._pause)
        rows = {inputs / "train.jsonl": data.train, inputs / "validation.jsonl": data.validation}
        fetch_rows(self._runtime, self._held, rows, patience)
        link_base_model(self._runtime, self._held, self._workspace.inputs, patience)
        self._warm.base_model = self._base_model
        return fetch_resume_point(self._runtime, self._held, self._checkpoint, patience)

    @property
    def _checkpoint(self) -> Path:
        return self._workspace.inputs / self._run_id / "checkpoint"

    @property
    def _base_model(self) -> Path:
        """Where the node keeps it."""
        return (self._workspace.inputs / BASE_MODEL).resolve()

    def _pause(self, seconds: float) -> None:
        if self._supervisor.must_end:
            raise StopAsked
        self._fence.pause(seconds)

    def _plan(self, resume: ResumePoint | None) -> TrainPlan:
        run = RunPlan(run=self._run_id, spec=self._held.spec, resume_step=resume.step if resume else None)
        return TrainPlan(compute=self._compute(resume), runs=(run,))

    def _compute(self, resume: ResumePoint | None) -> Compute:
        """This worker's way of computing; a resumed run keeps the one it began with, whatever this worker's is."""
        if resume is not None:
            return read_checkpoint(self._checkpoint).compute
        return self._calibrations.compute_for(
            self._held.base_model.digest, self._base_model, self._folder / "calibrate", self._supervisor
        )

    def _uploads(self, report: ProgressReport, resume: ResumePoint | None) -> CheckpointUploads:
        return CheckpointUploads(
            self._runtime,
            self._held,
            self._fence,
            report=report,
            resumed_from=resume.step if resume else 0,
            checkpoints=self._out / "checkpoints",
            links=self._folder / "uploads",
        )

    def _train(self, plan: TrainPlan, report: ProgressReport, uploads: CheckpointUploads) -> Exit:
        def follow() -> bool:
            told = report.follow()
            uploads.follow()
            return told

        if (waiting := self._warm.take(plan.compute)) is not None:
            ended = self._supervisor.run(
                waiting.child,
                follow=follow,
                ask_to_stop=self._order_stop,
                begin=lambda: waiting.order(self._workspace),
            )
            # A process that ended before it had told anything of the run has done nothing a cold one could not.
            if ended.by is EndedBy.STOP or self._out.exists():
                return self._note(ended, waiting.child)
            log.warning("job %s: %s A cold one is started.\n%s", self._held.job, ended.told, waiting.child.log_tail())
        child = self._launcher.describe("train", self._workspace, compute=plan.compute)
        return self._note(self._supervisor.run(child, follow=follow, ask_to_stop=self._order_stop), child)

    def _note(self, ended: Exit, child: ChildProcess) -> Exit:
        if ended.status:
            log.warning("job %s: %s\n%s", self._held.job, ended.told, child.log_tail())
        return ended

    def _order_stop(self) -> None:
        order = ControlRecord(op="stop", run=self._run_id)
        with (self._workspace.out / "control.jsonl").open("a") as control:
            control.write(order.model_dump_json() + "\n")

    def _finish(self, compute: Compute, report: RunReport) -> Verdict:
        adapter, evaluation = self._out / "adapter", None
        if self._held.spec.data.evaluation is not None:
            evaluating = Evaluating(self._runtime, self._held, self._supervisor, self._launcher)
            evaluation = evaluating.run(self._folder / "evaluate", adapter, compute, Patience(self._pause))
        self._fence.check()
        # Uploaded before the version exists: an object without a row is waste, a version without files is a lie.
        manifest = Patience(self._pause).insist(lambda: self._runtime.objects.put_tree(self._held.department, adapter))
        organisation = self._runtime.settings.organisation
        return verdicts.registered(
            self._held, organisation=organisation, manifest=manifest, report=report, evaluation=evaluation
        )
