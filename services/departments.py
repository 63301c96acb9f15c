"""Departments: created by the operator, seen by their own people."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.adapters import check_name
from domain.audit import AuditEvent
from domain.data_classes import ORDINARY, DataClass
from domain.refusals import DepartmentClosed, Invalid, NameTaken, NotFound
from models_db.departments import Department
from models_db.sessions import enter_department
from services import audit


def create(session: Session, principal: Principal, name: str) -> Department:
    """Create a department in a platform session, which from then on is the department's. Raises NameTaken."""
    require(principal, Permission.DEPARTMENT_CREATE)
    check_name(name, param="name")
    department_id: UUID = session.execute(text("SELECT uuidv7()")).scalar_one()
    enter_department(session, department_id)
    created = session.scalars(
        insert(Department).values(id=department_id, name=name).on_conflict_do_nothing().returning(Department)
    ).one_or_none()
    if created is None:
        raise NameTaken("There is a department of that name.", param="name")
    audit.record(
        session, principal, AuditEvent.DEPARTMENT_CREATED, resource=("department", created.id), department=created.id
    )
    return created


def list_all(session: Session, principal: Principal) -> Sequence[Department]:
    """Every department, newest first, for the operator and the auditor; for anyone else their own."""
    if not principal.may(Permission.DEPARTMENT_LIST) and principal.department is not None:
        return [get(session, principal, principal.department)]
    require(principal, Permission.DEPARTMENT_LIST)
    statement = select(Department).from_statement(text("SELECT * FROM list_departments() ORDER BY id DESC"))
    return session.scalars(statement).all()


def get(session: Session, principal: Principal, department: UUID) -> Department:
    """One department, in its own session. Raises NotFound, also for anyone of another department."""
    require(principal, Permission.DEPARTMENT_READ)
    if principal.department not in {None, department}:
        raise NotFound("No such project.")
    found = session.get(Department, department)
    if found is None:
        raise NotFound("No such project.")
    return found


def set_default_data_class(session: Session, principal: Principal, data_class: DataClass) -> Department:
    """What the department's files are handled as where an upload says nothing. Earlier ones stay as they are.

    The installation's own default is the least: a department is stricter, or equal.
    """
    require(principal, Permission.DEPARTMENT_CHANGE)
    if data_class.strictness < ORDINARY.strictness:
        raise Invalid(f"The default is `{ORDINARY}` or stricter.", param="default_data_class")
    found = session.scalars(select(Department).with_for_update()).one()
    before, found.default_data_class = found.default_data_class, data_class
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.DEPARTMENT_CHANGED,
        resource=("department", found.id),
        details={"before": {"default_data_class": before}, "after": {"default_data_class": data_class}},
    )
    return found


def require_open(session: Session, department: UUID | None) -> None:
    """Raise DepartmentClosed where nobody acts any more; the platform is always open.

    Whoever closes it at this moment is waited for, and waits for the caller's transaction.
    """
    if department is None:
        return
    open_one = select(Department.id).where(Department.id == department, Department.closed_at.is_(None))
    if session.scalars(open_one.with_for_update(read=True, key_share=True)).one_or_none() is None:
        raise DepartmentClosed("The department is closed.")
