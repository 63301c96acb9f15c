"""API keys of people and of service accounts. A secret is shown once, by the call that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, Role, parse_roles, require
from domain.adapters import check_name
from domain.audit import AuditEvent
from domain.keys import new_key
from domain.refusals import Denied, NotFound
from models_db.departments import ApiKey, Membership, ServiceAccount, User
from services import audit, members


@dataclass(frozen=True)
class IssuedKey:
    """A stored key and its secret, which is nowhere else."""

    key: ApiKey
    secret: str
    redacted: str


def issue_to_user(
    session: Session, principal: Principal, *, user: UUID, name: str, expires_at: datetime | None
) -> IssuedKey:
    """A key for a member: made by themselves, by an admin, or by the operator for the first admin. Raises NotFound."""
    if principal.id != user or principal.type is not PrincipalType.USER:
        _require_may_issue(session, principal, user)
    else:
        require(principal, Permission.KEY_MANAGE_OWN)
    return _issue(session, principal, name=name, expires_at=expires_at, user=user, service_account=None)


def _require_may_issue(session: Session, principal: Principal, user: UUID) -> None:
    # Raises NotFound where the user is no member.
    membership, _person = members.get_member(session, principal, user)
    if principal.may(Permission.KEY_MANAGE):
        return
    require(principal, Permission.MEMBER_NAME_FIRST_ADMIN)
    if Role.DEPARTMENT_ADMIN not in membership.roles or _an_admin_has_a_key(session):
        raise Denied("The operator makes a key for an admin while no admin of the department has one.")


def _an_admin_has_a_key(session: Session) -> bool:
    """Whether the department can help itself: a lost or revoked last key must not lock it out for ever."""
    alive = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()))
    held = select(ApiKey.id).join(Membership, Membership.user_id == ApiKey.user_id)
    return bool(session.scalars(held.where(alive, Membership.roles.contains([Role.DEPARTMENT_ADMIN])).limit(1)).first())


def create_service_account(
    session: Session, principal: Principal, *, name: str, roles: list[str]
) -> tuple[ServiceAccount, IssuedKey]:
    """A robot of the department, with its first key."""
    require(principal, Permission.KEY_MANAGE)
    check_name(name, param="name")
    wanted = parse_roles(roles)
    if wanted & {Role.DEPARTMENT_ADMIN, Role.APPROVER}:
        raise Denied("A service account cannot be an admin or an approver: those decide, and people decide.")
    account = ServiceAccount(department_id=principal.department, name=name, roles=sorted(wanted))
    session.add(account)
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.SERVICE_ACCOUNT_CREATED,
        resource=("service_account", account.id),
        details={"roles": sorted(wanted)},
    )
    key = _issue(session, principal, name=name, expires_at=None, user=None, service_account=account.id)
    return account, key


def create_platform_account(session: Session, principal: Principal, role: Role) -> IssuedKey:
    """The installation's operator or auditor, made by Tsugiki itself in a platform session at its first start."""
    account = ServiceAccount(department_id=None, name=role.value, roles=[role.value])
    session.add(account)
    session.flush()
    return _issue(session, principal, name=role.value, expires_at=None, user=None, service_account=account.id)


def _issue(
    session: Session,
    principal: Principal,
    *,
    name: str,
    expires_at: datetime | None,
    user: UUID | None,
    service_account: UUID | None,
) -> IssuedKey:
    made = new_key()
    key = ApiKey(
        department_id=principal.department,
        user_id=user,
        service_account_id=service_account,
        name=name,
        prefix=made.prefix,
        secret_sha256=made.secret_sha256,
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    owner = user or service_account
    audit.record(
        session, principal, AuditEvent.KEY_CREATED, resource=("api_key", key.id), refs=[owner] if owner else []
    )
    return IssuedKey(key=key, secret=made.secret, redacted=made.redacted)


def list_keys(session: Session, principal: Principal) -> Sequence[ApiKey]:
    """The department's keys that are not revoked, newest first."""
    require(principal, Permission.KEY_READ)
    return session.scalars(select(ApiKey).where(ApiKey.revoked_at.is_(None)).order_by(ApiKey.id.desc())).all()


def get_key(session: Session, principal: Principal, key: UUID) -> ApiKey:
    """One key of the department. Raises NotFound."""
    require(principal, Permission.KEY_READ)
    return _key(session, key)


def revoke(session: Session, principal: Principal, key: UUID) -> None:
    """End a key, from the next request on: one's own, or any of the department's as its admin."""
    found = _key(session, key)
    if not (principal.id == found.user_id and principal.may(Permission.KEY_MANAGE_OWN)):
        require(principal, Permission.KEY_MANAGE)
    if found.revoked_at is None:
        found.revoked_at = session.scalar(select(func.now()))
        audit.record(session, principal, AuditEvent.KEY_REVOKED, resource=("api_key", key))


def _key(session: Session, key: UUID) -> ApiKey:
    found = session.get(ApiKey, key)
    if found is None:
        raise NotFound("No such key.")
    return found


def list_service_accounts(session: Session, principal: Principal) -> Sequence[ServiceAccount]:
    """The department's robots, newest first."""
    require(principal, Permission.KEY_READ)
    return session.scalars(
        select(ServiceAccount).where(ServiceAccount.deleted_at.is_(None)).order_by(ServiceAccount.id.desc())
    ).all()


def get_service_account(session: Session, principal: Principal, account: UUID) -> ServiceAccount:
    """One robot of the department. Raises NotFound."""
    require(principal, Permission.KEY_READ)
    found = session.get(ServiceAccount, account)
    if found is None or found.deleted_at is not None:
        raise NotFound("No such service account.")
    return found


def delete_service_account(session: Session, principal: Principal, account: UUID) -> None:
    """End a robot: its keys stop working with the next request."""
    require(principal, Permission.KEY_MANAGE)
    found = get_service_account(session, principal, account)
    now = session.scalar(select(func.now()))
    found.deleted_at = now
    for key in session.scalars(select(ApiKey).where(ApiKey.service_account_id == account, ApiKey.revoked_at.is_(None))):
        key.revoked_at = now
        audit.record(session, principal, AuditEvent.KEY_REVOKED, resource=("api_key", key.id))
    audit.record(session, principal, AuditEvent.SERVICE_ACCOUNT_DELETED, resource=("service_account", account))


def owner_of(session: Session, key: ApiKey) -> tuple[Membership, User] | ServiceAccount:
    """Who a key of the department acts for."""
    if key.service_account_id is not None:
        return session.get_one(ServiceAccount, key.service_account_id)
    membership = session.get_one(Membership, (key.department_id, key.user_id))
    return membership, session.get_one(User, key.user_id)
