"""Access to a department's data in an emergency: asked for by an operator, opened by another person, over by itself.

What is opened is an account in the department with the role `break_glass`, whose key ends with it. The audit trail has
its beginning and its end, and everything in between under the account's name.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, Reach, Role, require
from domain.audit import AuditEvent
from domain.refusals import AlreadyDecided, Conflict, Denied, NotFound, SeparationOfDuties
from models_db.audit import AuditRecord
from models_db.departments import ServiceAccount
from models_db.role_grants import BreakGlass
from services import audit, departments, keys
from services.keys import IssuedKey, KeyWish, Owner


def request(session: Session, principal: Principal, *, reason: str, lasts: timedelta) -> BreakGlass:
    """Ask for access to the session's department. Nothing is open before somebody else agrees."""
    require(principal, Permission.BREAK_GLASS_REQUEST)
    departments.require_open(session, principal.department)
    asked = BreakGlass(
        department_id=principal.department,
        reason=reason,
        lasts_s=int(lasts.total_seconds()),
        requested_by=_person(principal),
        answered_for_by=principal.human,
    )
    session.add(asked)
    session.flush()
    _record(session, principal, AuditEvent.BREAK_GLASS_REQUESTED, asked, lasts_s=asked.lasts_s)
    return asked


def _person(principal: Principal) -> UUID:
    """Who counts as one of the two: the person, or the first key's account, which is nobody's."""
    person = principal.human or principal.id
    if person is None:
        raise Denied("Only people decide.")
    return person


def open_up(session: Session, principal: Principal, glass: UUID) -> BreakGlass:
    """Agree: from now the one who asked may have a key. Raises NotFound, SeparationOfDuties, AlreadyDecided."""
    require(principal, Permission.BREAK_GLASS_OPEN)
    found = _glass(session, principal, glass)
    if found.opened_at is not None or found.closed_at is not None:
        raise AlreadyDecided("It is open, or over.")
    if _person(principal) == found.requested_by:
        raise SeparationOfDuties("Somebody else than the one who asked opens it.")
    account = ServiceAccount(
        department_id=found.department_id,
        name="break-glass",
        roles=[Role.BREAK_GLASS.value],
        answered_for_by=found.answered_for_by,
    )
    session.add(account)
    session.flush()
    found.opened_at = session.execute(select(func.now())).scalar_one()
    found.opened_by, found.account_id = _person(principal), account.id
    found.expires_at = found.opened_at + timedelta(seconds=found.lasts_s)
    session.flush()
    _record(session, principal, AuditEvent.BREAK_GLASS_OPENED, found, expires_at=found.expires_at)
    return found


def issue_key(session: Session, principal: Principal, glass: UUID) -> IssuedKey:
    """The key of an open access, for the one who asked and nobody else; the one before ends. Raises NotFound."""
    require(principal, Permission.BREAK_GLASS_REQUEST)
    found = _glass(session, principal, glass)
    if _person(principal) != found.requested_by:
        raise NotFound("No such break-glass access.")
    now = session.execute(select(func.now())).scalar_one()
    if found.account_id is None or found.expires_at is None or found.closed_at is not None or found.expires_at <= now:
        raise Conflict("It is not open.")
    keys.revoke_all(session, principal, found.account_id)
    left = found.expires_at - now
    owner = Owner(service_account=found.account_id, roles=[Role.BREAK_GLASS.value])
    return keys.issue(session, principal, KeyWish(name="break-glass", max_age=left), owner)


def close(session: Session, principal: Principal, glass: UUID) -> BreakGlass:
    """End it, or take the request back; one person is enough. Raises NotFound."""
    require(principal, Permission.BREAK_GLASS_CLOSE)
    found = _glass(session, principal, glass)
    if found.closed_at is None:
        _close(session, principal, found, reason="closed")
    return found


def expire(session: Session, glass: UUID) -> None:
    """End one whose time is over, in its department's session."""
    found = session.get_one(BreakGlass, glass, with_for_update=True)
    if found.closed_at is None:
        _close(session, access.system(found.department_id), found, reason="expired")


def over(session: Session) -> Sequence[tuple[UUID, UUID]]:
    """(access, department) of those whose time is over and that nobody has closed, from a platform session."""
    rows = session.execute(text("SELECT id, department_id FROM break_glass_over()"))
    return [(row.id, row.department_id) for row in rows]


def _close(session: Session, principal: Principal, glass: BreakGlass, *, reason: str) -> None:
    glass.closed_at = session.execute(select(func.now())).scalar_one()
    acts = 0
    if glass.account_id is not None:
        session.get_one(ServiceAccount, glass.account_id).deleted_at = glass.closed_at
        keys.revoke_all(session, principal, glass.account_id)
        done = select(func.count()).select_from(AuditRecord).where(AuditRecord.actor_id == glass.account_id)
        acts = session.execute(done).scalar_one()
    session.flush()
    _record(session, principal, AuditEvent.BREAK_GLASS_CLOSED, glass, why=reason, acts=acts)


def list_all(session: Session, principal: Principal) -> Sequence[BreakGlass]:
    """The department's, newest first."""
    require(principal, Permission.BREAK_GLASS_READ)
    found = select(BreakGlass).order_by(BreakGlass.id.desc())
    if principal.reach(Permission.BREAK_GLASS_READ) is Reach.OWN:
        found = found.where(BreakGlass.account_id == principal.id)
    return session.scalars(found).all()


def _glass(session: Session, principal: Principal, glass: UUID) -> BreakGlass:
    """The access, locked. Raises NotFound, and Denied for who holds another one."""
    found = session.get(BreakGlass, glass, with_for_update=True)
    if found is None:
        raise NotFound("No such break-glass access.")
    if principal.reach(Permission.BREAK_GLASS_READ) is Reach.OWN and found.account_id != principal.id:
        raise Denied("This key closes the access that it belongs to.")
    return found


def _record(session: Session, principal: Principal, event: AuditEvent, glass: BreakGlass, **details: object) -> None:
    audit.record(
        session,
        principal,
        event,
        resource=("break_glass", glass.id),
        refs=[glass.account_id] if glass.account_id else [],
        details=details,
    )
