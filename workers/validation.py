"""The validate worker's work: what a job's files come to under its base model's tokenizer, counted in a limited child.

A chat template is a program of whoever registered the base model, and rows are bytes of whoever uploaded them.
"""

import logging
from uuid import UUID

from domain.failpoints import FailPoint, failpoint
from domain.plans import InspectPlan, InspectProblem, InspectReport
from runtime.wiring import Runtime
from services import validation
from services.leases import JobError
from services.validation import ValidationWork
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key
from workers.base_model_cache import cached_folder, tokenizer_files
from workers.engine_process import Launcher, Workspace
from workers.inputs import BASE_MODEL
from workers.patience import Patience
from workers.scratch import scratch_folder

log = logging.getLogger(__name__)

TIME_LIMIT_S = 900
MEMORY_BYTES = 4 << 30
# The report and the log; nothing else is to be written.
FILE_BYTES = 64 << 20
LIMITS = (f"--cpu={TIME_LIMIT_S}", f"--as={MEMORY_BYTES}", f"--fsize={FILE_BYTES}", "--core=0")
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
    found = _inspect(runtime, work, launcher or Launcher())
    error = found if isinstance(found, JobError) else _too_large(runtime, work, found)
    with runtime.department(department) as session:
        if error is not None:
            validation.refuse(session, job, error)
        elif isinstance(found, InspectReport):
            validation.accept(session, job, found)
    failpoint(FailPoint.VALIDATE_COMMITTED)


def _inspect(runtime: Runtime, work: ValidationWork, launcher: Launcher) -> InspectReport | JobError:
    with scratch_folder(runtime.settings.work_dir, f"validate-{work.job.hex}") as folder:
        for number in range(TRIES):
            workspace = Workspace.create(folder / str(number))
            try:
                _prepare(runtime, work, workspace)
            except (ObjectMissing, DigestMismatch):
                log.exception("job %s: an input is missing", work.job)
                return JobError("artifact_missing", "The job's files are missing from storage, or damaged.")
            failpoint(FailPoint.VALIDATE_FETCHED)
            report = _report(work, workspace, launcher)
            if report is not None:
                return _refusal(report.problems[0]) if report.problems else report
    return JobError("inspection_failed", "The files could not be counted within the limits of time and memory.")


def _prepare(runtime: Runtime, work: ValidationWork, workspace: Workspace) -> None:
    data = work.spec.data
    # Named like the request's fields: what is found is reported under these names.
    files = {"training_file": data.train, "validation_file": data.validation, "evaluation_file": data.evaluation}
    given = {name: digest for name, digest in files.items() if digest is not None}
    for name, digest in given.items():
        runtime.objects.fetch(Key.blob(work.department, digest), workspace.inputs / name, digest)
    patience = Patience(lambda _seconds: None, limit_s=0)
    cached = cached_folder(runtime.settings.cache_dir, tokenizer_files(work.base_model), runtime.objects, patience)
    (workspace.inputs / BASE_MODEL).symlink_to(cached)
    workspace.write_plan(InspectPlan(files=tuple(given), max_seq_len=data.max_seq_len, too_long=data.too_long))


def _report(work: ValidationWork, workspace: Workspace, launcher: Launcher) -> InspectReport | None:
    child = launcher.describe("inspect", workspace, limits=LIMITS)
    child.start()
    child.ended(within_s=TIME_LIMIT_S)
    status = child.reap()
    report = workspace.read_result(InspectReport, "report.json")
    if report is None:
        log.warning("job %s: inspection ended with status %s\n%s", work.job, status, child.log_tail())
    return report


def _refusal(problem: InspectProblem) -> JobError:
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return JobError(problem.code, problem.message, place)


def _too_large(runtime: Runtime, work: ValidationWork, report: InspectReport) -> JobError | None:
    limit, epochs = runtime.settings.max_training_tokens, work.spec.n_epochs
    tokens = report.files[0].tokens * epochs
    if tokens <= limit:
        return None
    message = f"The training file has {tokens} tokens in {epochs} epochs; the limit is {limit}."
    return JobError("job_too_large", message, "training_file")
