"""The validate worker's work: what rows come to under a base model's tokenizer, counted in a limited child.

A chat template is a program of whoever registered the base model, and rows are bytes of whoever uploaded them.
"""

import logging
import time
from uuid import UUID

from domain.estimates import Reason, check_tokens
from domain.failpoints import FailPoint, failpoint
from domain.plans import InspectPlan, InspectReport
from domain.refusals import JobTooLarge
from domain.runs import RunSpec
from runtime.scratch import scratch_folder
from runtime.wiring import Runtime
from services import estimates, inspections, validation
from services.inspections import Counting
from services.leases import JobError
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key
from workers.base_model_cache import cached_folder, tokenizer_files
from workers.engine_process import Launcher, Workspace
from workers.inputs import BASE_MODEL
from workers.patience import Patience

log = logging.getLogger(__name__)

TIME_LIMIT_S = 900
# Nobody waits for an estimate as for a job, and a department may ask for many: they must not hold up others' jobs.
ESTIMATE_TIME_LIMIT_S = 120
MEMORY_BYTES = 4 << 30
# The report and the log; nothing else is to be written.
FILE_BYTES = 64 << 20
LIMITS = (f"--as={MEMORY_BYTES}", f"--fsize={FILE_BYTES}", "--core=0")
# A machine that is short of memory at one moment must not cost a department its job.
TRIES = 2


def validate(runtime: Runtime, job: UUID, launcher: Launcher | None = None) -> None:
    """Queue the job or refuse it. When storage is away nothing happens: the sweeper rings again.

    Raises StorageUnavailable.
    """
    with runtime.platform() as session:
        department = validation.department_of(session, job)
    if department is None:
        log.warning("there is no job %s", job)
        return
    with runtime.department(department) as session:
        work = validation.load(session, job)
    if work is None:
        return
    # An estimate may have had the same rows counted.
    found = work.report or _inspect(runtime, work.counting, launcher or Launcher())
    error = found if isinstance(found, JobError) else _objection(runtime, work.spec, found)
    with runtime.department(department) as session:
        if isinstance(found, InspectReport):
            inspections.keep(session, work.counting, found)
        if error is not None:
            validation.refuse(session, job, error)
        elif isinstance(found, InspectReport):
            validation.accept(session, job, found, currency=runtime.settings.currency)
    failpoint(FailPoint.VALIDATE_COMMITTED)


def count(runtime: Runtime, estimate: UUID, launcher: Launcher | None = None) -> None:
    """Count an estimate's rows. Counting twice is harmless. Raises StorageUnavailable, as `validate` does."""
    with runtime.platform() as session:
        department = estimates.department_of(session, estimate)
    if department is None:
        log.warning("there is no estimate %s", estimate)
        return
    with runtime.department(department) as session:
        counting = estimates.load(session, estimate)
    if counting is None:
        return
    found = _inspect(runtime, counting, launcher or Launcher(), time_limit_s=ESTIMATE_TIME_LIMIT_S)
    with runtime.department(department) as session:
        if isinstance(found, InspectReport):
            inspections.keep(session, counting, found)
        else:
            estimates.fail(session, estimate, Reason(code=found.code, message=found.message, param=found.param))


def _inspect(
    runtime: Runtime, counting: Counting, launcher: Launcher, *, time_limit_s: int = TIME_LIMIT_S
) -> InspectReport | JobError:
    with scratch_folder(runtime.settings.work_dir, f"validate-{counting.subject.hex}") as folder:
        for number in range(TRIES):
            workspace = Workspace.create(folder / str(number))
            try:
                _prepare(runtime, counting, workspace)
            except (ObjectMissing, DigestMismatch):
                log.exception("%s: an input is missing", counting.subject)
                return JobError("artifact_missing", "The job's files are missing from storage, or damaged.")
            failpoint(FailPoint.VALIDATE_FETCHED)
            report = _report(counting, workspace, launcher, time_limit_s=time_limit_s)
            if report is not None:
                return report
    return JobError("inspection_failed", "The files could not be counted within the limits of time and memory.")


def _prepare(runtime: Runtime, counting: Counting, workspace: Workspace) -> None:
    data = counting.data
    # Named like the request's fields: what is found is reported under these names.
    files = {"training_file": data.train, "validation_file": data.validation, "evaluation_file": data.evaluation}
    given = {name: digest for name, digest in files.items() if digest is not None}
    # A store that is away is not waited for: the sweeper rings again.
    patience = Patience(time.sleep, limit_s=0)
    for name, digest in given.items():
        patience.fetch(runtime.objects, Key.blob(counting.department, digest), workspace.inputs / name, digest)
    cached = cached_folder(runtime.settings.cache_dir, tokenizer_files(counting.base_model), runtime.objects, patience)
    (workspace.inputs / BASE_MODEL).symlink_to(cached)
    workspace.write_plan(InspectPlan(files=tuple(given), max_seq_len=data.max_seq_len, too_long=data.too_long))


def _report(counting: Counting, workspace: Workspace, launcher: Launcher, *, time_limit_s: int) -> InspectReport | None:
    child = launcher.describe("inspect", workspace, limits=(f"--cpu={time_limit_s}", *LIMITS))
    child.start()
    child.ended(within_s=time_limit_s)
    status = child.reap()
    report = workspace.read_result(InspectReport, "report.json")
    if report is None:
        log.warning("%s: inspection ended with status %s\n%s", counting.subject, status, child.log_tail())
    return report


def _objection(runtime: Runtime, spec: RunSpec, report: InspectReport) -> JobError | None:
    """The first thing that counted rows have against the job."""
    if report.problems:
        first = report.problems[0]
        return JobError(first.code, first.message, first.place)
    try:
        check_tokens(spec, report, runtime.settings.max_training_tokens)
    except JobTooLarge as refusal:
        return JobError(refusal.code, refusal.message, refusal.param)
    return None
