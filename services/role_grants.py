"""The roles that operators give: an approver's in a department, an operator's and an auditor's on the platform.

Two operators decide where there are two; the first one of an installation decides alone, and gives the second theirs.
What may not meet in one person is kept by the database (`keep_roles_apart`), wherever the roles are held.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.access import PLATFORM_ROLES, Permission, Principal, PrincipalType, Role, require
from domain.audit import AuditEvent
from domain.refusals import (
    AlreadyDecided,
    Denied,
    DepartmentNeeded,
    Invalid,
    NotFound,
    RoleUnknown,
    SeparationOfDuties,
)
from models_db.departments import Membership, ServiceAccount, User
from models_db.role_grants import RoleGrant
from services import audit, departments, keys, members
from services.keys import IssuedKey, KeyWish, Owner
from services.members import roles_kept_apart

GIVEN = (Role.APPROVER, Role.OPERATOR, Role.AUDITOR)


def request(session: Session, principal: Principal, *, role: str, user: UUID) -> RoleGrant:
    """Ask for a role, in the department's session for an approver's; at once decided where one operator is enough.

    Raises NotFound, RoleUnknown, SeparationOfDuties, DepartmentNeeded.
    """
    require(principal, Permission.ROLE_GRANT)
    wanted = _parse(principal, role)
    departments.require_open(session, principal.department)
    if session.get(User, user) is None:
        raise NotFound("No such user.", param="user_id")
    if user == principal.human:
        raise SeparationOfDuties("Nobody gives themselves a role.", param="user_id")
    grant = RoleGrant(department_id=principal.department, role=wanted, user_id=user, requested_by=_decider(principal))
    session.add(grant)
    session.flush()
    session.refresh(grant, ["needed"])
    _record(session, principal, AuditEvent.ROLE_GRANT_REQUESTED, grant)
    if grant.needed == 1:
        _decide(session, principal, grant)
    return grant


def _parse(principal: Principal, role: str) -> Role:
    if role not in GIVEN:
        raise RoleUnknown(f"Operators give: {', '.join(GIVEN)}.", param="role")
    if role == Role.APPROVER and principal.department is None:
        raise DepartmentNeeded("Choose the department of the approver with `OpenAI-Project`.", param="OpenAI-Project")
    if role in PLATFORM_ROLES and principal.department is not None:
        raise Invalid(f"The role {role} stands outside all departments: choose none.", param="OpenAI-Project")
    return Role(role)


def _decider(principal: Principal) -> UUID:
    """Who counts as one of the two: the person, or the first key's account, which is nobody's."""
    decider = principal.human or principal.id
    if decider is None:
        raise Denied("Only people decide.")
    return decider


def confirm(session: Session, principal: Principal, grant: UUID) -> RoleGrant:
    """Give the role that another operator asked for. Raises NotFound, AlreadyDecided, SeparationOfDuties."""
    require(principal, Permission.ROLE_GRANT)
    found = _grant(session, grant)
    if found.decided_at is not None or found.withdrawn_at is not None:
        raise AlreadyDecided("It is decided, or taken back.")
    if _decider(principal) in {found.requested_by, found.user_id}:
        raise SeparationOfDuties("Another operator than the one who asked, and the one it is for, confirms.")
    _decide(session, principal, found)
    return found


def _decide(session: Session, principal: Principal, grant: RoleGrant) -> None:
    grant.decided_by, grant.decided_at = _decider(principal), session.execute(select(func.now())).scalar_one()
    with roles_kept_apart():
        if grant.role == Role.APPROVER:
            _add_approver(session, principal, grant)
        else:
            session.add(
                ServiceAccount(department_id=None, name=grant.role, roles=[grant.role], answered_for_by=grant.user_id)
            )
        session.flush()
    _record(session, principal, AuditEvent.ROLE_GRANTED, grant)


def _add_approver(session: Session, principal: Principal, grant: RoleGrant) -> None:
    members.one_at_a_time(session, grant.department_id)
    # A key that the person had may be one that an admin made, and would decide for that admin from now on.
    keys.revoke_all_of(session, principal, grant.user_id)
    membership = session.get(Membership, (grant.department_id, grant.user_id))
    if membership is None:
        session.add(Membership(department_id=grant.department_id, user_id=grant.user_id, roles=[Role.APPROVER.value]))
    else:
        membership.roles = sorted({*membership.roles, Role.APPROVER.value})


def withdraw(session: Session, principal: Principal, grant: UUID) -> RoleGrant:
    """Take a request or a given role back, with its keys: one operator is enough to stop. Raises NotFound."""
    require(principal, Permission.ROLE_GRANT)
    found = _grant(session, grant)
    if found.withdrawn_at is None:
        found.withdrawn_at = session.execute(select(func.now())).scalar_one()
        if found.decided_at is not None:
            _take_back(session, principal, found)
        _record(session, principal, AuditEvent.ROLE_GRANT_WITHDRAWN, found)
    return found


def _take_back(session: Session, principal: Principal, grant: RoleGrant) -> None:
    if grant.role == Role.APPROVER:
        members.one_at_a_time(session, grant.department_id)
        membership = session.get(Membership, (grant.department_id, grant.user_id))
        if membership is not None:
            membership.roles = sorted({*membership.roles} - {Role.APPROVER.value})
        return
    account = _account(session, grant)
    if account is not None:
        account.deleted_at = grant.withdrawn_at
        keys.revoke_all(session, principal, account.id)


def claim_key(session: Session, principal: Principal, grant: UUID, wish: KeyWish) -> IssuedKey:
    """The key of a platform role, for the person who was given it and nobody else, in a platform session.

    One at a time: the one before ends. Raises NotFound, also for anyone else.
    """
    require(principal, Permission.ROLE_CLAIM)
    found = _grant(session, grant)
    account = _account(session, found)
    # A robot's key is whoever's holds it, and no person's for whom somebody answers.
    is_theirs = principal.type is PrincipalType.USER and principal.id == found.user_id
    if not is_theirs or found.decided_at is None or account is None:
        raise NotFound("No such role grant.")
    keys.revoke_all(session, principal, account.id)
    # The key is the platform's, whatever department the one belongs to that asks for it.
    outside = replace(principal, department=None)
    return keys.issue(session, outside, wish, Owner(service_account=account.id, roles=account.roles))


def _account(session: Session, grant: RoleGrant) -> ServiceAccount | None:
    """The platform account that a grant became, as long as it is there."""
    return session.scalars(
        select(ServiceAccount).where(
            ServiceAccount.department_id.is_(None),
            ServiceAccount.answered_for_by == grant.user_id,
            ServiceAccount.roles.contains([grant.role]),
            ServiceAccount.deleted_at.is_(None),
        )
    ).first()


def list_all(session: Session, principal: Principal) -> Sequence[RoleGrant]:
    """The department's, or the platform's, newest first."""
    require(principal, Permission.ROLE_READ)
    return session.scalars(select(RoleGrant).order_by(RoleGrant.id.desc())).all()


def _grant(session: Session, grant: UUID) -> RoleGrant:
    """The grant, locked: it is decided once. Raises NotFound."""
    found = session.get(RoleGrant, grant, with_for_update=True)
    if found is None:
        raise NotFound("No such role grant.")
    return found


def _record(session: Session, principal: Principal, event: AuditEvent, grant: RoleGrant) -> None:
    audit.record(
        session,
        principal,
        event,
        resource=("role_grant", grant.id),
        refs=[grant.user_id],
        details={"role": grant.role, "needed": grant.needed},
    )
