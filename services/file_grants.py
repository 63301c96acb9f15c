"""Who may read a file's content beside the data stewards: named members, until a day."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.refusals import NotFound, SeparationOfDuties
from models_db.grants import FileGrant
from services import audit, files, members


def give(session: Session, principal: Principal, file: UUID, *, user: UUID, lasts: timedelta) -> FileGrant:
    """Let a member read the content for so long. Raises NotFound for a file or a person who are not here."""
    require(principal, Permission.FILE_GRANT)
    files.get(session, principal, file)
    members.present(session, user)
    if user == principal.human:
        raise SeparationOfDuties("Nobody grants themselves anything.", param="user_id")
    grant = FileGrant(
        department_id=principal.department,
        file_id=file,
        user_id=user,
        granted_by=principal.human or principal.id,
        expires_at=session.execute(select(func.now() + lasts)).scalar_one(),
    )
    session.add(grant)
    session.flush()
    _record(session, principal, AuditEvent.FILE_GRANTED, grant, expires_at=grant.expires_at)
    return grant


def end(session: Session, principal: Principal, file: UUID, grant: UUID) -> None:
    """End one before its time. Raises NotFound."""
    require(principal, Permission.FILE_GRANT)
    found = session.get(FileGrant, grant)
    if found is None or found.file_id != file:
        raise NotFound("No such grant.")
    if found.ended_at is None:
        found.ended_at = session.execute(select(func.now())).scalar_one()
        session.flush()
        _record(session, principal, AuditEvent.FILE_GRANT_ENDED, found)


def list_all(session: Session, principal: Principal, file: UUID) -> Sequence[FileGrant]:
    """A file's grants in force, newest first. Raises NotFound."""
    require(principal, Permission.FILE_GRANT)
    files.get(session, principal, file)
    in_force = FileGrant.file_id == file, FileGrant.ended_at.is_(None), FileGrant.expires_at > func.now()
    return session.scalars(select(FileGrant).where(*in_force).order_by(FileGrant.id.desc())).all()


def _record(session: Session, principal: Principal, event: AuditEvent, grant: FileGrant, **details: object) -> None:
    resource, refs = ("file", grant.file_id), [grant.id, grant.user_id]
    audit.record(session, principal, event, resource=resource, refs=refs, details=details)
