"""Versions of one department that another may pull: asked for, approved by somebody else, and over by themselves.

The other department never has a row of the owner's before it: what is shared comes through `shared_versions`, which
gives approved versions alone. A revoked version is out of it at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require, require_any
from domain.adapters import VersionState
from domain.attestations import Approval, utc
from domain.audit import AuditEvent, Outcome
from domain.digests import Digest, Manifest
from domain.ids import IdKind, public_id
from domain.refusals import (
    AlreadyDecided,
    ArtifactMissing,
    Denied,
    NotFound,
    SeparationOfDuties,
    VersionNotApproved,
)
from models_db.adapters import AdapterVersion
from models_db.grants import VersionShare
from services import adapters, audit, blobs, downloads
from services.cursors import known_cursor


def request(
    session: Session, principal: Principal, model: str, departments: Sequence[UUID], *, lasts: timedelta
) -> list[VersionShare]:
    """Ask to share a version with departments for so long. Raises NotFound, VersionNotApproved.

    Whether a department exists is not said: a share with none is one that nobody uses.
    """
    require(principal, Permission.SHARE_REQUEST)
    version = _version(session, principal, model)
    if version.state != VersionState.APPROVED:
        raise VersionNotApproved("Only an approved version is shared.")
    ends = session.execute(select(func.now() + lasts)).scalar_one()
    shares = [
        VersionShare(
            department_id=principal.department,
            version_id=version.id,
            digest=version.digest,
            to_department=department,
            requested_by=_person(principal),
            expires_at=ends,
        )
        for department in departments
        if department != principal.department
    ]
    session.add_all(shares)
    session.flush()
    for share in shares:
        _record(session, principal, AuditEvent.SHARE_REQUESTED, share)
    return shares


def _person(principal: Principal) -> UUID:
    if principal.human is None:
        raise Denied("Only people share, and only people approve it.")
    return principal.human


def _version(session: Session, principal: Principal, model: str) -> AdapterVersion:
    found = adapters.find_model(session, principal, model)
    if found is None:
        raise NotFound("No such model.", param="fine_tuned_model_checkpoint")
    return found


def approve(session: Session, principal: Principal, share: UUID) -> VersionShare:
    """Let the other department have it. Raises NotFound, AlreadyDecided, SeparationOfDuties, VersionNotApproved."""
    require(principal, Permission.SHARE_APPROVE)
    found = _share(session, share)
    if found.decided_at is not None or found.ended_at is not None:
        raise AlreadyDecided("The share is decided, or ended.")
    if _person(principal) == found.requested_by:
        raise SeparationOfDuties("Another person than the one who asked approves.")
    version = session.get_one(AdapterVersion, found.version_id, with_for_update={"read": True})
    if version.state != VersionState.APPROVED or version.digest != found.digest:
        raise VersionNotApproved("Only an approved version is shared.")
    found.decided_by, found.decided_at = _person(principal), session.execute(select(func.now())).scalar_one()
    session.flush()
    _record(session, principal, AuditEvent.SHARE_APPROVED, found)
    return found


def end(session: Session, principal: Principal, share: UUID, *, model: str | None = None) -> None:
    """End a share, or turn its request down: one person is enough. Raises NotFound, also for another model's share."""
    require(principal, Permission.SHARE_END)
    found = _share(session, share)
    if model is not None and _version(session, principal, model).id != found.version_id:
        raise NotFound("No such permission.")
    if found.ended_at is None:
        found.ended_at = session.execute(select(func.now())).scalar_one()
        session.flush()
        _record(session, principal, AuditEvent.SHARE_ENDED, found)


@dataclass(frozen=True)
class ShareFilter:
    """Which shares of the department's."""

    model: str | None = None
    department: UUID | None = None
    after: UUID | None = None
    ascending: bool = False
    limit: int = 20


def list_page(session: Session, principal: Principal, wanted: ShareFilter) -> tuple[Sequence[VersionShare], bool]:
    """Shares that are not ended, asked for or in force, and whether there are more."""
    require(principal, Permission.SHARE_READ)
    found = select(VersionShare).where(VersionShare.ended_at.is_(None), VersionShare.expires_at > func.now())
    if wanted.model is not None:
        found = found.where(VersionShare.version_id == _version(session, principal, wanted.model).id)
    if wanted.department is not None:
        found = found.where(VersionShare.to_department == wanted.department)
    if wanted.after is not None:
        known_cursor(session, VersionShare, wanted.after)
        found = found.where(VersionShare.id > wanted.after if wanted.ascending else VersionShare.id < wanted.after)
    order = VersionShare.id if wanted.ascending else VersionShare.id.desc()
    shares = session.scalars(found.order_by(order).limit(wanted.limit + 1)).all()
    return shares[: wanted.limit], len(shares) > wanted.limit


def _share(session: Session, share: UUID) -> VersionShare:
    found = session.get(VersionShare, share, with_for_update=True)
    if found is None:
        raise NotFound("No such permission.")
    return found


def _record(session: Session, principal: Principal, event: AuditEvent, share: VersionShare) -> None:
    audit.record(
        session,
        principal,
        event,
        resource=("version_share", share.id),
        refs=[share.version_id, share.to_department],
        details={"digest": share.digest, "expires_at": share.expires_at},
    )


# --- the other department's side --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SharedVersion:
    """An approved version of another department's, as long as it is shared."""

    share_id: UUID
    owner_id: UUID
    version_id: UUID
    adapter_id: UUID
    adapter: str
    number: int
    model_name: str
    digest: Digest
    manifest: Manifest
    base_model_id: UUID
    created_at: datetime
    expires_at: datetime


_SHARED = text("SELECT * FROM shared_versions() ORDER BY share_id DESC")


def list_shared(session: Session, principal: Principal) -> Sequence[SharedVersion]:
    """What other departments share with the session's, newest first."""
    require(principal, Permission.ADAPTER_READ)
    return [
        SharedVersion(**dict(row) | {"manifest": Manifest.model_validate(row["manifest"], strict=False)})
        for row in session.execute(_SHARED).mappings()
    ]


def get_shared(session: Session, principal: Principal, share: UUID) -> SharedVersion:
    """One of them. Raises NotFound, also when its time is over or its version is approved no more."""
    found = next((each for each in list_shared(session, principal) if each.share_id == share), None)
    if found is None:
        raise NotFound("No such shared version.")
    return found


def open_download(session: Session, principal: Principal, share: UUID) -> SharedVersion:
    """May this principal have the files? Recorded before the first byte."""
    require_any(principal, (Permission.ADAPTER_DOWNLOAD, Permission.ADAPTER_DOWNLOAD_APPROVED))
    found = get_shared(session, principal, share)
    downloads.remember_shared(session, principal, share)
    _record_both(session, principal, AuditEvent.VERSION_DOWNLOADED, found)
    return found


def approval_of(session: Session, shared: SharedVersion, organisation: str) -> Approval:
    """Where it stands, for whoever it is shared with: that is while it is approved, and no longer.

    Who approved it, and which aliases stand for it, is its owner's to tell.
    """
    return Approval(
        adapter=shared.adapter,
        number=shared.number,
        digest=shared.digest,
        state=VersionState.APPROVED,
        approvers=(),
        aliases=(),
        department=public_id(IdKind.DEPARTMENT, shared.owner_id),
        organisation=organisation,
        as_of=utc(blobs.clock(session)),
    )


def close_download(session: Session, principal: Principal, sent: SharedVersion, sent_bytes: int) -> None:
    """The last byte was sent."""
    _record_both(session, principal, AuditEvent.VERSION_DOWNLOAD_COMPLETED, sent, sent_bytes=sent_bytes)


def report_damage(session: Session, principal: Principal, shared: SharedVersion, digest: Digest) -> None:
    """A file of it is missing from storage, or its bytes are not those of the digest: its owner is told."""
    _record_both(session, principal, AuditEvent.VERSION_DAMAGED, shared, file_digest=digest)


def _record_both(
    session: Session, principal: Principal, event: AuditEvent, shared: SharedVersion, **details: object
) -> None:
    """In the trail of the owner, whose version it is, and of the department that has it."""
    for department in (principal.department, shared.owner_id):
        audit.record(
            session,
            principal,
            event,
            resource=("adapter_version", shared.version_id),
            department=department,
            refs=[shared.adapter_id, shared.share_id],
            outcome=Outcome.FAILURE if event is AuditEvent.VERSION_DAMAGED else Outcome.SUCCESS,
            reason=ArtifactMissing.code if event is AuditEvent.VERSION_DAMAGED else None,
            details={"digest": shared.digest, **details},
        )
