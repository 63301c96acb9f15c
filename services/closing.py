"""The end of a department: closed at once and for ever, its objects and rows erased when their time is over."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.jobs import TERMINAL
from models_db.departments import ApiKey, Department
from models_db.grants import VersionShare
from models_db.jobs import Job
from services import audit, departments, jobs


def close(session: Session, principal: Principal, department: UUID) -> Department:
    """Close a department in its own session: its keys are off, its jobs ended, its shares over.

    Rows and objects stay until `erase` is due. There is no way back.
    """
    require(principal, Permission.DEPARTMENT_CLOSE)
    found = departments.get(session, principal, department)
    session.refresh(found, with_for_update=True)
    if found.closed_at is not None:
        return found
    now = session.execute(select(func.now())).scalar_one()
    alive = update(ApiKey).where(ApiKey.revoked_at.is_(None)).values(revoked_at=now).returning(ApiKey.id)
    keys = session.scalars(alive).all()
    unfinished = session.scalars(select(Job.id).where(Job.state.not_in(TERMINAL))).all()
    for job in unfinished:
        jobs.request_cancel(session, principal, job)
    session.execute(update(VersionShare).where(VersionShare.ended_at.is_(None)).values(ended_at=now))
    # Last: a closed department is one in which nothing is left to end.
    found.closed_at = now
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.DEPARTMENT_CLOSED,
        resource=("department", department),
        department=department,
        details={"keys": len(keys), "jobs": len(unfinished)},
    )
    return found


def to_erase(session: Session, kept: timedelta) -> Sequence[UUID]:
    """Departments that are closed for so long, and in which nothing runs any more, from a platform session."""
    due = text("SELECT departments_to_erase(:seconds)")
    return session.execute(due, {"seconds": kept.total_seconds()}).scalars().all()


def erase(session: Session, department: UUID, *, kept: timedelta, objects: int) -> int:
    """Erase the rows of one whose objects are gone, in a platform session; the trail stays. How many rows."""
    erasing = text("SELECT erase_department(:department, :seconds)")
    parameters = {"department": department, "seconds": kept.total_seconds()}
    rows: int = session.execute(erasing, parameters).scalar_one()
    if rows:
        audit.record(
            session,
            access.system(department),
            AuditEvent.DEPARTMENT_ERASED,
            resource=("department", department),
            details={"objects": objects, "rows": rows},
        )
    return rows
