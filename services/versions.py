"""What becomes of a registered version: handed out, described, withdrawn, deleted. Its files never change."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require, require_all
from domain.adapters import LATEST, NEXT, STANDING, VersionState, check_transition
from domain.approvals import ApprovalState
from domain.audit import AuditEvent, Outcome
from domain.digests import Digest, Manifest
from domain.ids import IdKind, public_id
from domain.jobs import TERMINAL
from domain.outgoing import OutgoingKind
from domain.refusals import ArtifactMissing, Denied, NotFound, VersionInUse, VersionWithdrawn
from models_db.adapters import Adapter, AdapterVersion, Alias
from models_db.approvals import ApprovalRequest
from models_db.jobs import Job
from services import adapters, aliases, attestations, audit, downloads, outbox

_DELETED = "It was deleted."

# --- what people say of it --------------------------------------------------------------------------------------------


def describe(
    session: Session,
    principal: Principal,
    version: AdapterVersion,
    *,
    labels: Mapping[str, str] | None,
    description: str | None,
) -> AdapterVersion:
    """Set labels, all of them at once, or the description; None leaves them. Nothing else of a version is editable."""
    require(principal, Permission.ADAPTER_DESCRIBE)
    found = lock(session, version)
    if labels is not None:
        found.labels = dict(labels)
    if description is not None:
        found.description = description
    session.flush()
    changed = [name for name, given in (("labels", labels), ("description", description)) if given is not None]
    _record(session, principal, found, AuditEvent.VERSION_CHANGED, changed=changed)
    return found


# --- its state --------------------------------------------------------------------------------------------------------


def lock(session: Session, version: AdapterVersion) -> AdapterVersion:
    """The version as it is now; nobody else changes it, or moves an alias to it, until the transaction ends.

    Raises NotFound for one that was deleted meanwhile.
    """
    aliases.lock(session, version.adapter_id)
    found = session.get_one(AdapterVersion, version.id, with_for_update=True, populate_existing=True)
    if found.deleted_at is not None:
        raise NotFound("No such adapter version.")
    return found


def become(session: Session, version: AdapterVersion, state: VersionState, *, reason: str | None = None) -> None:
    """Move a locked version's state. Raises Conflict where the table forbids it."""
    check_transition(VersionState(version.state), state)
    version.state, version.state_reason = state, reason
    version.state_changed_at = session.scalar(select(func.now()))
    session.flush()


def revoke(session: Session, principal: Principal, version: AdapterVersion, *, reason: str) -> AdapterVersion:
    """Stop a version at once: one person is enough. It is handed out no more, and no alias stands for it.

    A version that is revoked already is left as it is.
    """
    _require_own_or_all(principal, Permission.ADAPTER_REVOKE, version)
    found = lock(session, version)
    if found.state == VersionState.REVOKED:
        return found
    _revoke(session, principal, found, reason=reason)
    return found


def _revoke(session: Session, principal: Principal, found: AdapterVersion, *, reason: str) -> None:
    before, withdrawn = found.state, aliases.withdraw_from(session, principal, found)
    close_requests(session, found)
    become(session, found, VersionState.REVOKED, reason=reason)
    _record(session, principal, found, AuditEvent.VERSION_REVOKED, before=before, aliases=withdrawn)
    outbox.announce_version(session, OutgoingKind.VERSION_REVOKED, found, reason=reason)


def withdraw(session: Session, actor: Principal, version: AdapterVersion, *, reason: str) -> AdapterVersion:
    """Revoke a version, whatever stands for it: two people have agreed to that. Locked, and as it is now.

    One that was deleted, erased or revoked already is left as it is.
    """
    aliases.lock(session, version.adapter_id)
    found = session.get_one(AdapterVersion, version.id, with_for_update=True, populate_existing=True)
    if found.deleted_at is None and found.state != VersionState.REVOKED:
        _revoke(session, actor, found, reason=reason)
    return found


def erase(session: Session, actor: Principal, version: AdapterVersion, *, reason: str) -> None:
    """Leave nothing of a version but its row, which stands as revoked: two people have agreed to that.

    One that was deleted or erased already is left as it is.
    """
    before = version.state
    found = withdraw(session, actor, version, reason=reason)
    if found.deleted_at is not None:
        return
    found.deleted_at = session.scalar(select(func.now()))
    session.flush()
    _record(session, actor, found, AuditEvent.VERSION_DELETED, before=before, aliases=[])


def retire(session: Session, principal: Principal, version: AdapterVersion, *, reason: str) -> AdapterVersion:
    """Take a version out of service for good. Raises VersionInUse while an alias stands for it; `latest` goes on."""
    _require_own_or_all(principal, Permission.ADAPTER_RETIRE, version)
    found = lock(session, version)
    if found.state == VersionState.RETIRED:
        return found
    _check_unused(session, found)
    before, withdrawn = found.state, aliases.withdraw_from(session, principal, found)
    close_requests(session, found)
    become(session, found, VersionState.RETIRED, reason=reason)
    _record(session, principal, found, AuditEvent.VERSION_RETIRED, before=before, aliases=withdrawn)
    return found


def delete(session: Session, principal: Principal, version: AdapterVersion) -> list[Digest]:
    """Leave nothing of a version but its row; the digests of its files and of what signs them.

    They are to be erased once this is committed.

    A trainer deletes candidates of their own, an admin any version. Its number is not given away again. Raises
    VersionInUse while an alias stands for it, or a job that is not finished goes on from it.
    """
    require(principal, Permission.ADAPTER_DELETE)
    found = lock(session, version)
    if not _is_own(principal, found) or found.state != VersionState.CANDIDATE:
        require_all(principal, Permission.ADAPTER_DELETE)
    _check_unused(session, found)
    _check_no_parent(session, found)
    before, withdrawn = VersionState(found.state), aliases.withdraw_from(session, principal, found)
    close_requests(session, found)
    if VersionState.RETIRED in NEXT[before]:
        become(session, found, VersionState.RETIRED, reason=_DELETED)
    found.deleted_at = session.scalar(select(func.now()))
    session.flush()
    _record(session, principal, found, AuditEvent.VERSION_DELETED, before=before, aliases=withdrawn)
    return sorted(blobs_of(session, found))


def blobs_of(session: Session, version: AdapterVersion) -> set[Digest]:
    """The digests of a version's files and of what signs them."""
    files = Manifest.model_validate(version.manifest, strict=False).files
    signed = attestations.of_version(session, version.id)
    return {file.digest for file in files} | {each.digest for each in signed}


def close_requests(session: Session, version: AdapterVersion) -> None:
    """Nobody decides about it any more: what waits for a decision is withdrawn."""
    waiting = ApprovalRequest.version_id == version.id, ApprovalRequest.state == ApprovalState.PENDING
    closed = {"state": ApprovalState.WITHDRAWN, "closed_at": func.now()}
    session.execute(update(ApprovalRequest).where(*waiting).values(closed))


def _require_own_or_all(principal: Principal, permission: Permission, version: AdapterVersion) -> None:
    require(principal, permission)
    if not _is_own(principal, version):
        require_all(principal, permission)


def _is_own(principal: Principal, version: AdapterVersion) -> bool:
    """Whether the principal, or the person behind it, had the version made."""
    return principal.id == version.created_by or (
        principal.human is not None and principal.human == version.submitter_id
    )


def _check_unused(session: Session, version: AdapterVersion) -> None:
    used = select(Alias.name).where(Alias.version_id == version.id, Alias.name != LATEST)
    if names := sorted(session.scalars(used)):
        raise VersionInUse(f"An alias stands for this version: {', '.join(names)}.")


def _check_no_parent(session: Session, version: AdapterVersion) -> None:
    needed = select(Job.id).where(Job.parent_version_id == version.id, Job.state.not_in(TERMINAL))
    if job := session.scalars(needed.limit(1)).first():
        raise VersionInUse(f"A job that is not finished goes on from this version: {public_id(IdKind.JOB, job)}.")


# --- its files --------------------------------------------------------------------------------------------------------


def open_download(session: Session, principal: Principal, name: str, reference: str) -> tuple[Adapter, AdapterVersion]:
    """May this principal have the files? Recorded before the first byte is sent.

    An inference account gets approved versions that an alias stands for. One that is rejected, retired or revoked is
    handed to nobody: VersionWithdrawn.
    """
    adapter = adapters.get(session, principal, name)
    version = adapters.get_version(session, principal, name, reference)
    if not principal.may(Permission.ADAPTER_DOWNLOAD):
        require(principal, Permission.ADAPTER_DOWNLOAD_APPROVED)
        if version.state == VersionState.CANDIDATE:
            raise Denied("This version is not approved.")
        if version.state == VersionState.APPROVED and not _in_service(session, version):
            raise Denied("No alias stands for this version.")
    if version.state not in STANDING:
        raise VersionWithdrawn(f"This version is {version.state}.")
    downloads.remember(session, principal, version)
    _record(session, principal, version, AuditEvent.VERSION_DOWNLOADED)
    return adapter, version


def close_download(session: Session, principal: Principal, version: AdapterVersion, sent_bytes: int) -> None:
    """The last byte was sent, and every digest was right: a version that was damaged is whole again."""
    _record(session, principal, version, AuditEvent.VERSION_DOWNLOAD_COMPLETED, sent_bytes=sent_bytes)
    if _mark_damaged(session, version, since=None):
        _record(session, principal, version, AuditEvent.VERSION_MENDED)


def report_damage(session: Session, principal: Principal, version: AdapterVersion, digest: Digest) -> None:
    """A file of the version is missing from storage, or its bytes are not those of the digest. Recorded once."""
    require(principal, Permission.ADAPTER_READ)
    if not _mark_damaged(session, version, since=func.now()):
        return
    audit.record(
        session,
        principal,
        AuditEvent.VERSION_DAMAGED,
        resource=("adapter_version", version.id),
        refs=[version.adapter_id],
        outcome=Outcome.FAILURE,
        reason=ArtifactMissing.code,
        details={"digest": version.digest, "file_digest": digest},
    )


def _mark_damaged(session: Session, version: AdapterVersion, *, since: ColumnElement[datetime] | None) -> bool:
    """Set or remove the mark; whether that changed anything."""
    marked = AdapterVersion.damaged_at.is_not(None) if since is None else AdapterVersion.damaged_at.is_(None)
    changed = update(AdapterVersion).where(AdapterVersion.id == version.id, marked).values(damaged_at=since)
    return session.execute(changed.returning(AdapterVersion.id)).first() is not None


def _in_service(session: Session, version: AdapterVersion) -> bool:
    """Whether an alias that people move stands for it."""
    held = select(Alias.name).where(Alias.version_id == version.id, Alias.name != LATEST)
    return session.scalars(held.limit(1)).first() is not None


def _record(
    session: Session, principal: Principal, version: AdapterVersion, event: AuditEvent, **details: object
) -> None:
    audit.record(
        session,
        principal,
        event,
        resource=("adapter_version", version.id),
        refs=[version.adapter_id],
        details={"digest": version.digest, "number": version.number, **details},
    )
