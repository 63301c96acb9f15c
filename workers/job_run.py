"""One job's part in an attempt: its inputs, its progress and checkpoints while it trains, and its verdict."""

import logging
from datetime import datetime
from pathlib import Path

from domain.failpoints import FailPoint, failpoint
from domain.plans import Compute, ControlRecord, FailureKind, RunFailure, RunPlan, RunReport, RunStopped
from runtime.attesting import attest
from runtime.wiring import Runtime
from services import blobs
from services.claims import Claim, ResumePoint
from workers import verdicts
from workers.checkpoints import CheckpointUploads
from workers.engine_process import Launcher, Workspace
from workers.evaluating import Evaluating
from workers.fence import Fence
from workers.inputs import fetch_parent, fetch_resume_point, fetch_rows, read_checkpoint
from workers.patience import Patience, StopAsked
from workers.progress import ProgressReport
from workers.provenance import of_training
from workers.supervisor import Exit, Supervisor
from workers.verdicts import Verdict

log = logging.getLogger(__name__)


class JobRun:
    """A claimed job among those that one process trains. `fetch` comes first, `verdict` last, each once."""

    def __init__(
        self,
        runtime: Runtime,
        held: Claim,
        fence: Fence,
        *,
        supervisor: Supervisor,
        launcher: Launcher,
        workspace: Workspace,
        folder: Path,
    ) -> None:
        self.held = held
        self._runtime, self._fence, self._folder = runtime, fence, folder
        self._supervisor, self._launcher, self._workspace = supervisor, launcher, workspace
        self._run_id = held.job.hex
        self._out = workspace.out / self._run_id
        self._resume: ResumePoint | None = None
        self._stop_ordered = False

    # --- before -------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Have rows and checkpoint in place. Raises LeaseLost, StopAsked, and storage's errors."""
        data, inputs, patience = self.held.spec.data, self._workspace.inputs / self._run_id, Patience(self.pause)
        rows = {inputs / "train.jsonl": data.train, inputs / "validation.jsonl": data.validation}
        fetch_rows(self._runtime, self.held, rows, patience)
        self._resume = fetch_resume_point(self._runtime, self.held, inputs / "checkpoint", patience)
        if self._resume is None:
            fetch_parent(self._runtime, self.held, inputs / "parent", patience)
        self._report = ProgressReport(self._runtime, self.held, self._out / "progress.jsonl")
        self._uploads = CheckpointUploads(
            self._runtime,
            self.held,
            self._fence,
            report=self._report,
            resumed_from=self._resume.step if self._resume else 0,
            checkpoints=self._out / "checkpoints",
            links=self._folder / "uploads",
        )

    @property
    def plan(self) -> RunPlan:
        """As the engine is given it."""
        return RunPlan(
            run=self._run_id, spec=self.held.spec, resume_step=self._resume.step if self._resume else None
        )  # fmt: skip

    @property
    def compute(self) -> Compute | None:
        """How a resumed run began, which it keeps, whatever this worker's way is; None for a new one."""
        if self._resume is None:
            return None
        return read_checkpoint(self._workspace.inputs / self._run_id / "checkpoint").compute

    def pause(self, seconds: float) -> None:
        """Wait, unless the job should end meanwhile. Raises StopAsked, LeaseLost."""
        if self._must_end:
            raise StopAsked
        self._fence.pause(seconds)

    @property
    def _must_end(self) -> bool:
        return self._supervisor.must_end or any(self._fence.asked(self.held.job))

    # --- meanwhile ----------------------------------------------------------------------------------------------------

    def follow(self) -> bool:
        """Pass on what is new; whether there was anything. Raises LeaseLost."""
        told = self._report.follow()
        self._uploads.follow()
        if any(self._fence.asked(self.held.job)):
            # The others of its process go on.
            self.order_stop()
        return told

    def order_stop(self) -> None:
        """Have the engine write a checkpoint of this run, and end it."""
        if self._stop_ordered:
            return
        self._stop_ordered = True
        order = ControlRecord(op="stop", run=self._run_id)
        with (self._workspace.out / "control.jsonl").open("a") as control:
            control.write(order.model_dump_json() + "\n")

    @property
    def begun(self) -> bool:
        """Whether the engine has told anything of it."""
        return self._out.exists()

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def verdict(self, ended: Exit, compute: Compute) -> Verdict:
        """How it ended, with the process. Raises LeaseLost, StopAsked, Ended, and storage's errors."""
        self._report.send()
        if self._fence.asked(self.held.job).to_cancel:
            return verdicts.cancelled(self.held)
        if trained := self._workspace.read_result(RunReport, self._run_id, "report.json"):
            return self._finish(compute, trained)
        # Whatever ended the ranks, what they had reached is kept.
        Patience(self._fence.pause).insist(self._uploads.upload_newest)
        failure = self._workspace.read_result(RunFailure, self._run_id, "failure.json")
        # A rank can say that its peer is gone, and not who killed it.
        if failure and not (failure.kind is FailureKind.CRASH and ended.for_memory):
            return verdicts.of_failure(self.held, failure, self._resume)
        # Ranks also stop by themselves when somebody ends all processes of a machine.
        stopped = self._workspace.read_result(RunStopped, self._run_id, "stopped.json")
        if stopped or self._must_end:
            return verdicts.released(self.held)
        return verdicts.of_exit(self.held, ended)

    def _finish(self, compute: Compute, report: RunReport) -> Verdict:
        adapter, evaluation = self._out / "adapter", None
        if self.held.spec.data.evaluation is not None:
            evaluating = Evaluating(self._runtime, self.held, self._supervisor, self._launcher)
            evaluation = evaluating.run(self._folder / "evaluate", adapter, compute, Patience(self.pause))
        self._fence.check()
        failpoint(FailPoint.ADAPTER_BEFORE_UPLOAD)
        # Uploaded before the version exists: an object without a row is waste, a version without files is a lie.
        patience = Patience(self.pause)
        stored_since = patience.insist(self._clock)
        organisation = self._runtime.settings.organisation
        provenance = of_training(self.held, report, compute, organisation=organisation, finished_at=stored_since)
        attested = attest(self._runtime, self.held.department, adapter, provenance, insist=patience.insist)
        manifest = patience.insist(lambda: self._runtime.objects.put_tree(self.held.department, adapter))
        failpoint(FailPoint.ADAPTER_UPLOADED)
        return verdicts.registered(
            self.held,
            organisation=organisation,
            manifest=manifest,
            attested=attested,
            report=report,
            evaluation=evaluation,
            stored_since=stored_since,
        )

    def _clock(self) -> datetime:
        with self._runtime.department(self.held.department) as session:
            return blobs.clock(session)
