"""The held-out rows, measured with the base model alone and with the finished adapter."""

import logging
from pathlib import Path

from domain.plans import Compute, EvaluatePlan, EvaluationItem, EvaluationReport, RunFailure
from runtime.wiring import Runtime
from services.adapters import EvaluationPair
from services.claims import Claim
from workers import verdicts
from workers.engine_process import Launcher, Workspace, kill
from workers.inputs import fetch_rows, link_base_model
from workers.patience import Patience, StopAsked
from workers.progress import ProgressFile
from workers.supervisor import EndedBy, Supervisor
from workers.verdicts import Ended

log = logging.getLogger(__name__)

BASE, ADAPTER = "base", "adapter"


class Evaluating:
    """Measures one job's adapter, under the same lease as its training."""

    def __init__(self, runtime: Runtime, held: Claim, supervisor: Supervisor, launcher: Launcher) -> None:
        self._runtime, self._held, self._supervisor, self._launcher = runtime, held, supervisor, launcher

    def run(self, folder: Path, adapter: Path, compute: Compute, patience: Patience) -> EvaluationPair:
        """Both reports. Raises Ended where there are none, StopAsked, LeaseLost, and storage's errors."""
        workspace = Workspace.create(folder)
        self._fetch_inputs(workspace.inputs, adapter, patience)
        max_seq_len = self._held.spec.data.max_seq_len
        items = (
            EvaluationItem(evaluation=BASE, with_adapter=False, max_seq_len=max_seq_len),
            EvaluationItem(evaluation=ADAPTER, with_adapter=True, max_seq_len=max_seq_len),
        )
        workspace.write_plan(EvaluatePlan(compute=compute, evaluations=items))
        self._measure(workspace, compute)
        return EvaluationPair(base=self._report(workspace, BASE), adapter=self._report(workspace, ADAPTER))

    def _fetch_inputs(self, inputs: Path, adapter: Path, patience: Patience) -> None:
        rows = self._held.spec.data.evaluation
        fetch_rows(
            self._runtime, self._held, {inputs / name / "evaluation.jsonl": rows for name in (BASE, ADAPTER)}, patience
        )
        link_base_model(self._runtime, self._held, inputs, patience)
        (inputs / ADAPTER / "adapter").symlink_to(adapter)

    def _measure(self, workspace: Workspace, compute: Compute) -> None:
        progress = ProgressFile(workspace.out / "progress.jsonl")
        child = self._launcher.describe("evaluate", workspace, compute=compute)
        ended = self._supervisor.run(
            # An evaluation has nothing to keep.
            child, follow=lambda: any(list(progress.read_new())), ask_to_stop=lambda: kill(child)
        )  # fmt: skip
        if ended.by is EndedBy.STOP:
            raise StopAsked
        if ended.status:
            log.warning("job %s: %s\n%s", self._held.job, ended.told, child.log_tail())
            raise Ended(verdicts.of_exit(self._held, ended))

    def _report(self, workspace: Workspace, name: str) -> EvaluationReport:
        if report := workspace.read_result(EvaluationReport, name, "report.json"):
            return report
        failure = workspace.read_result(RunFailure, name, "failure.json")
        if failure is None:
            raise Ended(verdicts.crashed(self._held, "The evaluation ended without a result."))
        raise Ended(verdicts.of_failure(self._held, failure, resume=None))
