"""Files of a department: registered once their bytes are in storage, never changed, deleted with a tombstone."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, Reach, require
from domain.audit import AuditEvent
from domain.data_classes import DataClass
from domain.digests import Digest
from domain.jobs import TERMINAL
from domain.refusals import Denied, FileInUse, NotFound
from domain.rows import RowsReport
from models_db.departments import Department
from models_db.files import File
from models_db.grants import FileGrant
from models_db.jobs import Job
from services import audit, blobs
from services.cursors import known_cursor
from services.limits import check_storage


def register(
    session: Session,
    principal: Principal,
    *,
    filename: str,
    purpose: str,
    digest: Digest,
    size_bytes: int,
    rows: RowsReport | None,
    stored_since: datetime,
    data_class: DataClass | None = None,
) -> File:
    """Enter an uploaded file. Its bytes are in storage already: a row without its object would be a lie.

    stored_since is the time before they were put. data_class is the department's default where none is given. Raises
    QuotaSpent, Denied for a class that the caller may not give, and BytesErased: they have to be put again.
    """
    require(principal, Permission.FILE_UPLOAD)
    check_storage(session, digest, size_bytes)
    chosen = _data_class(session, principal, data_class)
    blobs.confirm(session, principal.department, [digest], stored_since=stored_since)
    file = File(
        department_id=principal.department,
        filename=filename,
        purpose=purpose,
        bytes=size_bytes,
        digest=digest,
        rows=rows.rows if rows else None,
        duplicate_rows=rows.duplicate_rows if rows else None,
        data_class=chosen,
        created_by=principal.id,
    )
    session.add(file)
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.FILE_CREATED,
        resource=("file", file.id),
        details={"digest": digest, "bytes": size_bytes, "rows": file.rows, "data_class": file.data_class},
    )
    return file


def _data_class(session: Session, principal: Principal, given: DataClass | None) -> DataClass:
    """What the file is to be handled as. Only a data steward calls rows less confidential than the department does."""
    default = DataClass(session.scalars(select(Department.default_data_class)).one())
    if given is not None and given.strictness < default.strictness:
        require(principal, Permission.FILE_CLASSIFY)
    return given or default


def check_room(
    session: Session, principal: Principal, digest: Digest, size_bytes: int, *, data_class: DataClass | None = None
) -> None:
    """Raise QuotaSpent and Denied where `register` would: before the bytes are stored, and not after."""
    require(principal, Permission.FILE_UPLOAD)
    _data_class(session, principal, data_class)
    check_storage(session, digest, size_bytes)


def get(session: Session, principal: Principal, file: UUID) -> File:
    """One file's metadata. Raises NotFound."""
    require(principal, Permission.FILE_READ)
    return _file(session, file)


def _file(session: Session, file: UUID) -> File:
    found = session.get(File, file)
    if found is None or found.deleted_at is not None:
        raise NotFound("No such file.")
    return found


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int, ascending: bool, purpose: str | None
) -> tuple[Sequence[File], bool]:
    """A page of the department's files and whether there are more."""
    require(principal, Permission.FILE_READ)
    statement = select(File).where(File.deleted_at.is_(None))
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    if after is not None:
        known_cursor(session, File, after)
        statement = statement.where(File.id > after if ascending else File.id < after)
    found = session.scalars(statement.order_by(File.id if ascending else File.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def open_content(session: Session, principal: Principal, file: UUID) -> File:
    """May this principal read the bytes? Recorded before the first of them is sent."""
    require(principal, Permission.FILE_READ_CONTENT)
    found = _file(session, file)
    _require_granted(session, principal, found)
    audit.record(session, principal, AuditEvent.FILE_READ, resource=("file", file), details={"digest": found.digest})
    return found


def _require_granted(session: Session, principal: Principal, file: File) -> None:
    """Raise Denied where the content is not read by role, and no grant of this file is in force."""
    if principal.reach(Permission.FILE_READ_CONTENT) is not Reach.GRANTED:
        return
    granted = select(FileGrant.id).where(
        FileGrant.file_id == file.id,
        FileGrant.user_id == principal.human,
        FileGrant.ended_at.is_(None),
        FileGrant.expires_at > func.now(),
    )
    if session.scalars(granted.limit(1)).first() is None:
        raise Denied("The content of this file was not granted to you.")


def delete(session: Session, principal: Principal, file: UUID) -> Digest:
    """Mark a file deleted; the digest of its bytes, which are to be erased once this is committed.

    Raises FileInUse while a job that is not finished needs it. A file that is deleted already is left as it is: its
    caller may be one whose erasing failed.
    """
    require(principal, Permission.FILE_DELETE)
    # Locked: a submit that names the file at this moment is before or after, not beside.
    found = session.get(File, file, with_for_update=True)
    if found is None:
        raise NotFound("No such file.")
    if found.deleted_at is not None:
        return found.digest
    needed_by = or_(Job.training_file_id == file, Job.validation_file_id == file, Job.evaluation_file_id == file)
    if session.scalars(select(Job.id).where(needed_by, Job.state.not_in(TERMINAL)).limit(1)).first():
        raise FileInUse("A job that is not finished needs this file.")
    found.deleted_at = session.scalar(select(func.now()))
    session.flush()
    audit.record(session, principal, AuditEvent.FILE_DELETED, resource=("file", file), details={"digest": found.digest})
    return found.digest
