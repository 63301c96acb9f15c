"""From an identity at the provider to a person and their roles. Changes are recorded, without names and subjects."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain import access
from domain.access import Role
from domain.audit import AuditEvent
from domain.identities import Identity
from models_db.departments import Membership, User
from models_db.identities import LinkedIdentity
from services import audit
from services.members import one_at_a_time, roles_kept_apart


def person_of(session: Session, identity: Identity, *, trusts_email: bool) -> UUID | None:
    """The person behind an identity, from a platform session; by e-mail address at their first sign-in.

    An address that the provider has not verified proves nothing, unless trusts_email: of a provider where people cannot
    choose theirs.
    """
    known = session.get(LinkedIdentity, (identity.issuer, identity.subject))
    if known is not None:
        return known.user_id
    if identity.email is None or not _is_theirs(identity, trusts_email=trusts_email):
        return None
    person = session.scalars(select(User).where(User.email == identity.email.lower())).one_or_none()
    return None if person is None else link(session, identity, person.id)


def enter(session: Session, identity: Identity, *, trusts_email: bool) -> UUID | None:
    """Enter somebody whose groups give them a role; None where somebody has their address, or it proves nothing.

    Whoever is known by an address may be given roles by it.
    """
    if identity.email is None or not _is_theirs(identity, trusts_email=trusts_email):
        return None
    values = {"email": identity.email.lower(), "name": identity.name}
    entered = session.scalars(insert(User).values(values).on_conflict_do_nothing().returning(User.id)).one_or_none()
    if entered is None:
        return None
    audit.record(session, access.system(None), AuditEvent.USER_CREATED, resource=("user", entered))
    return link(session, identity, entered)


def _is_theirs(identity: Identity, *, trusts_email: bool) -> bool:
    return identity.is_email_verified or trusts_email


def link(session: Session, identity: Identity, person: UUID) -> UUID:
    """Remember who the identity is. Two first sign-ins at once are one."""
    values = {"issuer": identity.issuer, "subject": identity.subject, "user_id": person}
    linking = insert(LinkedIdentity).values(values).on_conflict_do_nothing().returning(LinkedIdentity.subject)
    if session.scalars(linking).first() is not None:
        audit.record(session, access.system(None), AuditEvent.IDENTITY_LINKED, resource=("user", person))
    return session.get_one(LinkedIdentity, (identity.issuer, identity.subject)).user_id


def memberships(session: Session, person: UUID) -> dict[UUID, frozenset[Role]]:
    """The departments in which a person has roles, from a platform session."""
    rows = session.execute(text("SELECT * FROM memberships_of(:person)"), {"person": person})
    return {row.department_id: frozenset(Role(name) for name in row.roles) for row in rows}


def wanted_roles(session: Session, by_name: Mapping[str, frozenset[Role]]) -> dict[UUID, frozenset[Role]]:
    """The same by the departments' ids, from a platform session; of open departments that there are."""
    if not by_name:
        return {}
    rows = session.execute(text("SELECT id, name FROM list_departments() WHERE closed_at IS NULL"))
    return {row.id: by_name[row.name] for row in rows if row.name in by_name}


def follow_groups(session: Session, department: UUID, person: UUID, roles: frozenset[Role]) -> None:
    """Give a person the roles of their groups in the session's department, in place of those they had.

    An approver stays one: that role comes from operators. So does the last admin. Raises SeparationOfDuties.
    """
    one_at_a_time(session, department)
    membership = session.get(Membership, (department, person), with_for_update=True)
    before = frozenset(membership.roles) if membership else frozenset()
    after = sorted({role.value for role in roles} | (before & {Role.APPROVER.value}))
    if membership is None:
        membership = Membership(department_id=department, user_id=person, roles=after)
        session.add(membership)
    membership.roles = after
    with roles_kept_apart():
        session.flush()
    audit.record(
        session,
        access.system(department),
        AuditEvent.MEMBER_CHANGED if before else AuditEvent.MEMBER_ADDED,
        resource=("user", person),
        details={"before": sorted(before), "after": after, "by": "groups"},
    )
