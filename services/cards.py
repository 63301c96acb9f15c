"""Model cards and comparisons of versions: read from the rows that were written when things happened."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, Reach, require
from domain.adapters import VersionState
from domain.approvals import Decision
from domain.cards import Card, CardApproval, CardDecision, CardEvaluation, CardFile
from domain.comparisons import Difference, FileChange, differences, file_changes, measurements
from domain.data_classes import DataClass
from domain.digests import Manifest
from domain.plans import EvaluationReport, RunReport
from domain.runs import RunSpec
from models_db.adapters import Adapter, AdapterVersion, Alias
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from services import adapters, approvals
from services.approvals import Approval, ApprovalFilter

# A version's requests are few: one after another, until it is approved.
_MAX_APPROVALS = 100


@dataclass(frozen=True)
class Comparison:
    """Two versions of an adapter beside each other."""

    before: AdapterVersion
    after: AdapterVersion
    spec: tuple[Difference, ...]
    data: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    files: tuple[FileChange, ...]


def card_of(session: Session, principal: Principal, version: AdapterVersion) -> Card:
    """Everything that is known of a version; nothing that its department wrote for who sees metadata alone."""
    require(principal, Permission.ADAPTER_READ)
    reads_text = principal.reach(Permission.ADAPTER_READ) is not Reach.METADATA
    job = None if version.job_id is None else session.get_one(Job, version.job_id)
    base_model = session.get_one(BaseModel, version.base_model_id)
    aliases = session.scalars(select(Alias.name).where(Alias.version_id == version.id).order_by(Alias.name))
    return Card(
        adapter=session.get_one(Adapter, version.adapter_id).name,
        number=version.number,
        id=version.id,
        model=version.model_name,
        digest=version.digest,
        state=VersionState(version.state),
        state_reason=version.state_reason if reads_text else None,
        state_changed_at=version.state_changed_at,
        created_at=version.created_at,
        data_class=DataClass(version.data_class),
        labels=version.labels if reads_text else {},
        description=version.description if reads_text else "",
        aliases=tuple(aliases),
        base_model=base_model.name,
        base_model_digest=base_model.digest,
        job=version.job_id,
        trainer_type=PrincipalType(job.submitted_by_type if job else str(version.created_by_type)),
        trainer=version.created_by,
        person=version.submitter_id,
        worker=version.worker,
        worker_id=version.worker_id,
        code_version=version.code_version,
        spec=RunSpec.model_validate(job.spec, strict=False) if job else None,
        report=RunReport.model_validate(version.report, strict=False) if version.report else None,
        data=tuple(_data(session, job)) if job else (),
        evaluations=tuple(_evaluations(session, version)),
        approvals=tuple(_approval(each) for each in _requests(session, principal, version)),
        manifest=Manifest.model_validate(version.manifest, strict=False),
    )


def compare(session: Session, principal: Principal, before: AdapterVersion, after: AdapterVersion) -> Comparison:
    """What is different between two versions of one adapter."""
    one, other = card_of(session, principal, before), card_of(session, principal, after)
    return Comparison(
        before=before,
        after=after,
        spec=differences(_spec(one), _spec(other)),
        data=differences(_rows(one), _rows(other)),
        metrics=measurements(_metrics(one), _metrics(other)),
        files=file_changes(one.manifest, other.manifest),
    )


def _spec(card: Card) -> dict[str, object]:
    """Without the digests of its rows: those are told of beside it."""
    rows = {"data": {"train", "validation", "evaluation"}}
    return card.spec.model_dump(mode="json", exclude=rows) if card.spec else {}


def _rows(card: Card) -> dict[str, object]:
    return {file.role: file.model_dump(mode="json", exclude={"role", "deleted"}) for file in card.data}


def _metrics(card: Card) -> dict[str, object]:
    """Of the run, and of the newest evaluation."""
    measured: dict[str, object] = {}
    if card.report is not None:
        measured |= card.report.model_dump(mode="json", exclude={"run", "versions"})
    for evaluation in card.evaluations[:1]:
        measured["evaluation"] = {
            "base": evaluation.base.model_dump(mode="json"), "adapter": evaluation.adapter.model_dump(mode="json"),
        }  # fmt: skip
    return measured


def _data(session: Session, job: Job) -> list[CardFile]:
    roles = {
        "training": job.training_file_id, "validation": job.validation_file_id, "evaluation": job.evaluation_file_id,
    }  # fmt: skip
    found = {role: session.get_one(File, key) for role, key in roles.items() if key is not None}
    return [
        CardFile(
            role=role,
            id=file.id,
            digest=file.digest,
            rows=file.rows,
            data_class=DataClass(file.data_class),
            deleted=file.deleted_at is not None,
        )
        for role, file in found.items()
    ]


def _evaluations(session: Session, version: AdapterVersion) -> list[CardEvaluation]:
    return [
        CardEvaluation(
            id=found.id,
            file_id=found.file_id,
            base=EvaluationReport.model_validate(found.base_report, strict=False),
            adapter=EvaluationReport.model_validate(found.adapter_report, strict=False),
        )
        for found in adapters.evaluations_of(session, version.id)
    ]


def _requests(session: Session, principal: Principal, version: AdapterVersion) -> Sequence[Approval]:
    """Its requests, oldest first; none where the caller may not read them."""
    if not principal.may(Permission.APPROVAL_READ):
        return []
    wanted = ApprovalFilter(version=version.id, limit=_MAX_APPROVALS)
    found, _has_more = approvals.list_page(session, principal, wanted)
    return found[::-1]


def _approval(found: Approval) -> CardApproval:
    return CardApproval(
        id=found.request.id,
        state=found.state,
        required=found.request.required,
        requester=found.request.requester_id,
        decisions=tuple(
            CardDecision(approver=each.approver_id, decision=Decision(each.decision), decided_at=each.created_at)
            for each in found.decisions
        ),
    )
