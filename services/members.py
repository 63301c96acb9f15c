"""People, and their roles in a department."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, Role, parse_roles, require
from domain.audit import AuditEvent
from domain.refusals import Denied, Invalid, NameTaken, NotFound, SeparationOfDuties
from models_db.departments import ApiKey, Membership, User
from models_db.sessions import take_lock
from services import audit, departments


def create_user(session: Session, principal: Principal, *, email: str, name: str) -> User:
    """Enter a human into the organisation. Raises NameTaken for an e-mail address already there."""
    require(principal, Permission.USER_CREATE)
    if email.count("@") != 1 or email != email.strip() or not name.strip():
        raise Invalid("Give a name and an e-mail address.", param="email")
    created = session.scalars(
        insert(User).values(email=email.lower(), name=name.strip()).on_conflict_do_nothing().returning(User)
    ).one_or_none()
    if created is None:
        raise NameTaken("There is a user of that e-mail address.", param="email")
    audit.record(session, principal, AuditEvent.USER_CREATED, resource=("user", created.id))
    return created


def list_users(session: Session, principal: Principal) -> Sequence[User]:
    """Everyone in the organisation, for the operator and the auditor; an admin sees the department's own."""
    require(principal, Permission.USER_READ)
    statement = select(User).order_by(User.id.desc())
    if not principal.may(Permission.DEPARTMENT_LIST):
        statement = statement.join(Membership).where(func.cardinality(Membership.roles) > 0)
    return session.scalars(statement).all()


def get_user(session: Session, principal: Principal, user: UUID) -> User:
    """One person. Raises NotFound, also where an admin asks for someone outside the department."""
    found = next((known for known in list_users(session, principal) if known.id == user), None)
    if found is None:
        raise NotFound("No such user.")
    return found


def own_email(session: Session, principal: Principal) -> str | None:
    """The e-mail address of the person who acts; None for a service account."""
    person = session.get(User, principal.id) if principal.type is PrincipalType.USER and principal.id else None
    return person.email if person else None


def find_user(session: Session, principal: Principal, email: str) -> User:
    """The person of an e-mail address, for who may add them to a department. Raises NotFound."""
    if not principal.may(Permission.MEMBER_MANAGE):
        require(principal, Permission.MEMBER_NAME_FIRST_ADMIN)
    found = session.scalars(select(User).where(User.email == email.lower())).one_or_none()
    if found is None:
        raise NotFound("No such user.")
    return found


def list_members(session: Session, principal: Principal) -> Sequence[tuple[Membership, User]]:
    """The department's people and their roles."""
    require(principal, Permission.MEMBER_READ)
    present = func.cardinality(Membership.roles) > 0
    rows = session.execute(select(Membership, User).join(User).where(present).order_by(User.id.desc())).all()
    return [(membership, user) for membership, user in rows]


def get_member(session: Session, principal: Principal, user: UUID) -> tuple[Membership, User]:
    """One of the department's people. Raises NotFound."""
    require(principal, Permission.MEMBER_READ)
    row = session.execute(
        select(Membership, User).join(User).where(User.id == user, func.cardinality(Membership.roles) > 0)
    ).one_or_none()
    if row is None:
        raise NotFound("No such user in this project.")
    return row[0], row[1]


def present(session: Session, user: UUID) -> Membership:
    """Somebody's membership of the session's department, for what is given to members. Raises NotFound."""
    found = session.scalars(
        select(Membership).where(Membership.user_id == user, func.cardinality(Membership.roles) > 0)
    ).one_or_none()
    if found is None:
        raise NotFound("No such user in this project.", param="user_id")
    return found


def set_roles(session: Session, principal: Principal, user: UUID, roles: list[str]) -> tuple[Membership, User]:
    """Give someone roles in the session's department, in place of those they had.

    Nobody changes their own. The operator may name a department's first admin, and no more than that.
    """
    wanted = parse_roles(roles)
    one_at_a_time(session, principal.department)
    _require_may_set(session, principal, user, wanted)
    departments.require_open(session, principal.department)
    person = session.get(User, user)
    if person is None:
        raise NotFound("No such user.")
    membership = session.get(Membership, (principal.department, user))
    before = list(membership.roles) if membership else []
    event = AuditEvent.MEMBER_CHANGED if before else AuditEvent.MEMBER_ADDED
    if membership is None:
        membership = Membership(department_id=principal.department, user_id=user, roles=sorted(wanted))
        session.add(membership)
    elif _last_admin(session, user) and Role.DEPARTMENT_ADMIN not in wanted:
        raise Denied("The department would be left without an admin.")
    else:
        membership.roles = sorted(wanted)
    with roles_kept_apart():
        session.flush()
    audit.record(
        session, principal, event, resource=("user", user), details={"before": before, "after": sorted(wanted)}
    )
    return membership, person


@contextmanager
def roles_kept_apart() -> Iterator[None]:
    """A block that gives roles: what the database refuses is raised as SeparationOfDuties, or Denied."""
    try:
        yield
    except IntegrityError as error:
        broken = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        if broken == "last_admin":
            raise Denied("The department would be left without an admin.") from error
        if broken in {"roles_apart", "ck_memberships_roles_apart", "ck_service_accounts_roles_apart"}:
            raise SeparationOfDuties("These roles may not meet in one person.", param="role") from error
        raise


def _require_may_set(session: Session, principal: Principal, user: UUID, wanted: frozenset[Role]) -> None:
    if user in {principal.id, principal.human}:
        raise SeparationOfDuties("Nobody changes their own roles.")
    held = session.get(Membership, (principal.department, user))
    if Role.APPROVER in wanted and (held is None or Role.APPROVER not in held.roles):
        raise Denied("Operators make somebody an approver: `POST /v1/organization/role_grants`.")
    if principal.may(Permission.MEMBER_MANAGE):
        return
    require(principal, Permission.MEMBER_NAME_FIRST_ADMIN)
    if wanted != {Role.DEPARTMENT_ADMIN} or _admins(session):
        raise Denied("The operator names a department's first admin; its admins do the rest.")


def remove(session: Session, principal: Principal, user: UUID) -> None:
    """Take someone out of the department and revoke their keys in it. The last admin stays."""
    require(principal, Permission.MEMBER_MANAGE)
    one_at_a_time(session, principal.department)
    membership, _person = get_member(session, principal, user)
    if principal.id == user or _last_admin(session, user):
        raise Denied("The department's last admin, and oneself, cannot be removed.")
    before = list(membership.roles)
    keys = session.scalars(select(ApiKey).where(ApiKey.user_id == user)).all()
    for key in keys:
        key.revoked_at = key.revoked_at or session.scalar(select(func.now()))
    # Keys and grants point at the membership: it stays, without a role, so that their history stays too.
    membership.roles = []
    with roles_kept_apart():
        session.flush()
    audit.record(session, principal, AuditEvent.MEMBER_REMOVED, resource=("user", user), details={"before": before})


def one_at_a_time(session: Session, department: UUID | None) -> None:
    """Wait for whoever else changes who is what in a department: that is decided on what is there."""
    take_lock(session, f"members of {department}")


def _admins(session: Session) -> set[UUID]:
    found = session.scalars(select(Membership.user_id).where(Membership.roles.contains([Role.DEPARTMENT_ADMIN])))
    return set(found)


def _last_admin(session: Session, user: UUID) -> bool:
    return _admins(session) == {user}
