"""Whether a job may be entered: what its names stand for, and everything that stands against it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from domain import ids
from domain.access import Principal
from domain.digests import Digest
from domain.ids import IdKind
from domain.job_requests import FileFacts, JobRequest, check_total_steps, resolve
from domain.jobs import JobState
from domain.refusals import Invalid, NotFound, Refusal, UnknownFile
from domain.runs import RunSpec
from domain.verdicts import Verdict
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from services import base_models, parents, policies
from services.limits import LimitDefaults, against_submit
from services.parents import Parent


@dataclass(frozen=True)
class JobLimits:
    """What a department may ask for that has no limit of its own, and what one job may be."""

    max_unfinished_jobs: int
    max_total_steps: int
    # Of the budget.
    currency: str = "usd"


@dataclass(frozen=True)
class Admission:
    """What a request comes to before it is entered: its row, where its names stand for something, and all refusals."""

    job: Job | None
    refusals: tuple[Refusal, ...]
    # Of the policy that it was judged by; None where there is none, or nothing to judge.
    policy: Digest | None = None

    @property
    def accepted(self) -> Job:
        """The row. Raises the first refusal where there is one."""
        if self.refusals or self.job is None:
            raise self.refusals[0]
        return self.job


def admit(session: Session, principal: Principal, request: JobRequest, *, limits: JobLimits, seed: int) -> Admission:
    """Try a request against everything that could refuse it, and enter nothing. What is asked first is refused first.

    A submit goes by it, and an estimate tells all of it.
    """
    defaults = LimitDefaults(limits.max_unfinished_jobs, limits.currency)
    refusals: list[Refusal] = [*against_submit(session, defaults)]
    named, job = _named(session, request, refusals), None
    with _noted(refusals):
        job = _job_of(principal, request, named, seed=seed) if named else None
    with _noted(refusals):
        if job is not None:
            check_total_steps(job.spec["total_steps"], limits.max_total_steps)
    verdict = _judged(session, job, named) if job and named else None
    with _noted(refusals):
        if verdict is not None:
            verdict.require_passed()
    return Admission(job, tuple(refusals), verdict.policy.digest if verdict else None)


@contextmanager
def _noted(refusals: list[Refusal]) -> Iterator[None]:
    """A block whose refusal is noted, not raised."""
    try:
        yield
    except Refusal as refusal:
        refusals.append(refusal)


@dataclass(frozen=True)
class _Named:
    """What a request's names stand for."""

    base_model: BaseModel
    parent: Parent | None
    training: File
    validation: File | None
    evaluation: File | None


def _named(session: Session, request: JobRequest, refusals: list[Refusal]) -> _Named | None:
    """What the names stand for; None where one of them stands for nothing, which is noted."""
    before, base_model, parent = len(refusals), None, None
    with _noted(refusals):
        if request.model.startswith(parents.MODEL_PREFIX):
            parent = parents.get_usable(session, request.model)
            base_model = session.get_one(BaseModel, parent.version.base_model_id)
        else:
            base_model = base_models.get_ready(session, request.model)
    files: dict[str, File | None] = {}
    for param in ("training_file", "validation_file", "evaluation_file"):
        with _noted(refusals):
            files[param] = _optional_file(session, getattr(request, param), param)
    training = files.get("training_file")
    if len(refusals) > before or base_model is None or training is None:
        return None
    return _Named(base_model, parent, training, files["validation_file"], files["evaluation_file"])


def _job_of(principal: Principal, request: JobRequest, named: _Named, *, seed: int) -> Job:
    """The row of a request whose names have become digests. Raises what `resolve` refuses."""
    training, validation, evaluation, parent = named.training, named.validation, named.evaluation, named.parent
    spec = resolve(
        request,
        base_model=named.base_model.name,
        base_model_digest=named.base_model.digest,
        facts=base_models.facts_of(named.base_model),
        training=_facts(training),
        validation=_facts(validation) if validation else None,
        evaluation=_facts(evaluation) if evaluation else None,
        seed=seed if request.seed is None else request.seed,
        parent=parent.facts if parent else None,
    )
    return Job(
        department_id=principal.department,
        state=JobState.VALIDATING_FILES,
        base_model_id=named.base_model.id,
        training_file_id=training.id,
        validation_file_id=validation.id if validation else None,
        evaluation_file_id=evaluation.id if evaluation else None,
        parent_version_id=parent.version.id if parent else None,
        adapter_name=parent.adapter if parent and not request.suffix else request.adapter_name,
        suffix=request.suffix,
        spec=spec.model_dump(mode="json"),
        priority=request.priority,
        hyperparameters=request.chosen_hyperparameters.model_dump(mode="json"),
        job_metadata=request.metadata or {},
        request_sha256=sha256_of(request),
        submitted_by=principal.id,
        submitted_by_type=principal.type,
        submitted_key=principal.key_id,
        submitter_id=principal.human,
    )


def _judged(session: Session, job: Job, named: _Named) -> Verdict:
    learns_from = (named.training, named.validation, named.parent.version if named.parent else None)
    spec = RunSpec.model_validate(job.spec, strict=False)
    return policies.judge_submit(session, spec, [each for each in learns_from if each is not None])


def _rows_file(session: Session, file_id: str, param: str) -> File:
    try:
        # Shared: it is not deleted before this job is there to need it.
        file = session.get(File, ids.parse_id(IdKind.FILE, file_id), with_for_update={"read": True})
    except NotFound:
        file = None
    if file is None or file.deleted_at is not None:
        raise UnknownFile("No such file.", param=param)
    if file.rows is None:
        raise Invalid("The file was not uploaded with the purpose `fine-tune`.", param=param)
    return file


def _optional_file(session: Session, file_id: str | None, param: str) -> File | None:
    return None if file_id is None else _rows_file(session, file_id, param)


def _facts(file: File) -> FileFacts:
    return FileFacts(digest=file.digest, rows=file.rows or 0)


def sha256_of(request: JobRequest) -> str:
    """What tells one request from another."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
