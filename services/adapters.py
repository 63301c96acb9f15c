"""The registry: adapter versions, registered once with their lineage, and how they are found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, require
from domain.adapters import VersionState, model_name
from domain.audit import AuditEvent
from domain.data_classes import DataClass, strictest
from domain.digests import Manifest
from domain.failpoints import FailPoint, failpoint
from domain.jobs import JobState
from domain.outgoing import OutgoingKind
from domain.plans import EvaluationReport, RunReport
from domain.refusals import NotFound
from models_db.adapters import Adapter, AdapterVersion, Alias, Evaluation, LineageEdge
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job, Lease
from services import aliases, attestations, audit, blobs, estimates, leases, outbox
from services.attestations import Attested
from services.claims import Claim
from services.code_version import code_version
from services.cursors import known_cursor
from services.jobs import close, tell

# Of a deleted version only its row is left.
_THERE = AdapterVersion.deleted_at.is_(None)


@dataclass(frozen=True)
class EvaluationPair:
    """The held-out rows, measured with the base model alone and with the adapter."""

    base: EvaluationReport
    adapter: EvaluationReport


def register(
    session: Session,
    held: Claim,
    *,
    organisation: str,
    manifest: Manifest,
    attested: Attested,
    report: RunReport,
    evaluation: EvaluationPair | None,
    stored_since: datetime,
) -> AdapterVersion | None:
    """Number, version, lineage, evaluation, audit and job state in one transaction.

    The files are in storage already, and so is what they are signed with.

    None where cancellation was asked for first: the job is then cancelled. stored_since is the time before the files
    were put. Raises LeaseLost, and BytesErased when they have to be put again.
    """
    job = leases.hold(session, held)
    if job.cancel_requested_at is not None:
        leases.cancel(session, held)
        return None
    digests = attested.digests | {file.digest for file in manifest.files}
    blobs.confirm(session, job.department_id, digests, stored_since=stored_since)
    version = _next_version(session, job, held=held, organisation=organisation, manifest=manifest, report=report)
    attestations.enter(session, version, attested)
    _draw_lineage(session, job, version)
    if evaluation is not None and job.evaluation_file_id is not None:
        session.add(
            Evaluation(
                department_id=job.department_id,
                version_id=version.id,
                file_id=job.evaluation_file_id,
                base_report=evaluation.base.model_dump(mode="json"),
                adapter_report=evaluation.adapter.model_dump(mode="json"),
            )
        )
    job.trained_tokens = report.trained_tokens
    close(session, job, JobState.SUCCEEDED)
    leases.end(session, job, held.lease, "finished", report=report)
    job.actual = estimates.actual_of(session, job, report=report, manifest=manifest).model_dump(mode="json")
    tell(session, job, f"New fine-tuned model created: {version.model_name}")
    tell(session, job, "The job has successfully completed.")
    _record(session, job, version, attested)
    failpoint(FailPoint.FINISH_IN_TX)
    return version


def take_number(session: Session, department: UUID, name: str) -> tuple[Adapter, int]:
    """The adapter of that name, made where there is none, locked; and the number of its next version, now taken."""
    session.execute(insert(Adapter).values(department_id=department, name=name).on_conflict_do_nothing())
    # The lock on this row is what makes numbers of one adapter follow each other without a gap.
    adapter = session.scalars(select(Adapter).where(Adapter.name == name).with_for_update()).one()
    number = adapter.next_number
    adapter.next_number += 1
    session.flush()
    return adapter, number


def _next_version(
    session: Session, job: Job, *, held: Claim, organisation: str, manifest: Manifest, report: RunReport
) -> AdapterVersion:
    adapter, number = take_number(session, job.department_id, job.adapter_name)
    failpoint(FailPoint.FINISH_NUMBERED)
    base_model, lease = session.get_one(BaseModel, job.base_model_id), session.get_one(Lease, held.lease)
    version = AdapterVersion(
        department_id=job.department_id,
        adapter_id=adapter.id,
        number=number,
        job_id=job.id,
        base_model_id=base_model.id,
        state=VersionState.CANDIDATE,
        model_name=model_name(base_model.name, organisation, adapter.name, job.id.hex),
        digest=manifest.digest,
        manifest=manifest.model_dump(mode="json"),
        report=report.model_dump(mode="json"),
        created_by=job.submitted_by,
        submitter_id=job.submitter_id,
        data_class=_data_class(session, job),
        worker=lease.worker,
        worker_id=lease.worker_id,
        code_version=code_version(),
    )
    session.add(version)
    session.flush()
    failpoint(FailPoint.FINISH_VERSIONED)
    return version


def _data_class(session: Session, job: Job) -> DataClass:
    """That of the rows it learned from, itself or through its parent; held-out rows teach it nothing."""
    learned_from = [file for file in (job.training_file_id, job.validation_file_id) if file]
    classes = [*session.scalars(select(File.data_class).where(File.id.in_(learned_from)))]
    if job.parent_version_id is not None:
        classes.append(session.get_one(AdapterVersion, job.parent_version_id).data_class)
    return strictest(map(DataClass, classes))


def _draw_lineage(session: Session, job: Job, version: AdapterVersion) -> None:
    edges: list[tuple[str, str, UUID | None]] = [
        ("produced_by", "job", job.id),
        ("grafted_on", "base_model", job.base_model_id),
        ("trained_on", "file", job.training_file_id),
        ("validated_on", "file", job.validation_file_id),
        ("evaluated_on", "file", job.evaluation_file_id),
        ("continued_from", "adapter_version", job.parent_version_id),
    ]
    for relation, object_type, object_id in edges:
        if object_id is not None:
            session.add(
                LineageEdge(
                    department_id=job.department_id,
                    subject_type="adapter_version",
                    subject_id=version.id,
                    relation=relation,
                    object_type=object_type,
                    object_id=object_id,
                )
            )


def _record(session: Session, job: Job, version: AdapterVersion, attested: Attested) -> None:
    actor = access.system(job.department_id)
    subject = ("adapter_version", version.id)
    refs = [job.id, version.adapter_id, job.training_file_id, job.base_model_id]
    details = {"number": version.number, "digest": version.digest, "epoch": job.epoch} | attested.told()
    audit.record(session, actor, AuditEvent.VERSION_REGISTERED, resource=subject, refs=refs, details=details)
    aliases.follow_newest(session, version)
    audit.record(session, actor, AuditEvent.JOB_SUCCEEDED, resource=("job", job.id), refs=[version.id])
    outbox.announce_version(session, OutgoingKind.VERSION_REGISTERED, version)


# --- reading ----------------------------------------------------------------------------------------------------------


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int
) -> tuple[Sequence[Adapter], bool]:
    """A page of the department's adapters, newest first, and whether there are more."""
    require(principal, Permission.ADAPTER_READ)
    statement = select(Adapter)
    if after is not None:
        statement = statement.where(Adapter.id < known_cursor(session, Adapter, after))
    found = session.scalars(statement.order_by(Adapter.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def get(session: Session, principal: Principal, name: str) -> Adapter:
    """One adapter by name. Raises NotFound."""
    require(principal, Permission.ADAPTER_READ)
    found = session.scalars(select(Adapter).where(Adapter.name == name)).one_or_none()
    if found is None:
        raise NotFound("No such adapter.")
    return found


def aliases_of(session: Session, adapter: Adapter) -> dict[str, int]:
    """Alias to version number."""
    rows = session.execute(
        select(Alias.name, AdapterVersion.number)
        .join(AdapterVersion, AdapterVersion.id == Alias.version_id)
        .where(Alias.adapter_id == adapter.id)
    )
    return {row.name: row.number for row in rows}


def list_versions(
    session: Session, principal: Principal, name: str, *, after: UUID | None, limit: int
) -> tuple[Sequence[AdapterVersion], bool]:
    """A page of an adapter's versions, newest first, and whether there are more."""
    adapter = get(session, principal, name)
    statement = select(AdapterVersion).where(AdapterVersion.adapter_id == adapter.id, _THERE)
    if after is not None:
        statement = statement.where(AdapterVersion.id < known_cursor(session, AdapterVersion, after))
    found = session.scalars(statement.order_by(AdapterVersion.number.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def get_version(
    session: Session, principal: Principal, name: str, reference: str, *, deleted: bool = False
) -> AdapterVersion:
    """One version by number or alias; with `deleted` also one of which only its row is left. Raises NotFound."""
    adapter = get(session, principal, name)
    statement = select(AdapterVersion).where(AdapterVersion.adapter_id == adapter.id)
    if not deleted:
        statement = statement.where(_THERE)
    if reference.isascii() and reference.isdigit() and len(reference) < 10:  # noqa: PLR2004 - fits a 4-byte integer
        statement = statement.where(AdapterVersion.number == int(reference))
    else:
        statement = statement.join(Alias, Alias.version_id == AdapterVersion.id).where(
            Alias.adapter_id == adapter.id, Alias.name == reference
        )
    found = session.scalars(statement).one_or_none()
    if found is None:
        raise NotFound("No such adapter version.")
    return found


def find_model(session: Session, principal: Principal, name: str) -> AdapterVersion | None:
    """The version behind a client's `ft:…` model name, if the department has it."""
    require(principal, Permission.ADAPTER_READ)
    return session.scalars(select(AdapterVersion).where(AdapterVersion.model_name == name, _THERE)).one_or_none()


def list_models(session: Session, principal: Principal) -> Sequence[AdapterVersion]:
    """Every version of the department, newest first."""
    require(principal, Permission.ADAPTER_READ)
    return session.scalars(select(AdapterVersion).where(_THERE).order_by(AdapterVersion.id.desc())).all()


def versions_of_jobs(session: Session, jobs: Sequence[UUID]) -> dict[UUID, AdapterVersion]:
    """What finished jobs made, by job."""
    found = session.scalars(select(AdapterVersion).where(AdapterVersion.job_id.in_(jobs)))
    return {version.job_id: version for version in found if version.job_id is not None}


def evaluations_of(session: Session, version: UUID) -> Sequence[Evaluation]:
    """The reports attached to a version, newest first."""
    return session.scalars(
        select(Evaluation).where(Evaluation.version_id == version).order_by(Evaluation.id.desc())
    ).all()
