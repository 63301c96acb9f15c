"""API keys of people and of service accounts. A secret is shown once, by the call that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from domain.access import (
    Permission,
    Principal,
    PrincipalType,
    Role,
    parse_roles,
    parse_scopes,
    permissions_of,
    require,
    require_all,
)
from domain.adapters import check_name
from domain.audit import AuditEvent
from domain.keys import new_key
from domain.refusals import Denied, NotFound, OutOfRange, ScopeExceedsOwner
from models_db.departments import ApiKey, Membership, ServiceAccount, User
from services import audit, departments, members

# What keys are called that somebody has signed in for.
SESSION = "session"


@dataclass(frozen=True)
class IssuedKey:
    """A stored key and its secret, which is nowhere else."""

    key: ApiKey
    secret: str
    redacted: str


@dataclass(frozen=True)
class KeyWish:
    """A key as it is asked for. Without scopes it may all that its owner may, without an age it lives max_age."""

    name: str
    max_age: timedelta
    age: timedelta | None = None
    scopes: Sequence[str] | None = None


def issue_to_user(session: Session, principal: Principal, user: UUID, wish: KeyWish) -> IssuedKey:
    """A key for a member: made by themselves, by an admin, or by the operator for the first admin.

    Raises NotFound, OutOfRange, ScopeUnknown, ScopeExceedsOwner.
    """
    if _is_own(principal, user):
        require(principal, Permission.KEY_MANAGE)
    else:
        # Whether they are an approver is not to change meanwhile.
        members.one_at_a_time(session, principal.department)
        _require_may_issue(session, principal, user)
    roles = session.get_one(Membership, (principal.department, user)).roles
    return issue(session, principal, wish, Owner(user=user, roles=roles))


def _is_own(principal: Principal, user: UUID | None) -> bool:
    return principal.type is PrincipalType.USER and principal.id == user


def _require_may_issue(session: Session, principal: Principal, user: UUID) -> None:
    # Raises NotFound where the user is no member.
    membership, _person = members.get_member(session, principal, user)
    # Whoever makes a key could use it: an admin who held an approver's would decide on their own requests.
    if principal.may_all(Permission.KEY_MANAGE) and Role.APPROVER not in membership.roles:
        return
    require(principal, Permission.KEY_MANAGE_FIRST)
    held_by_user = ApiKey.user_id == user
    if Role.APPROVER in membership.roles and not _has_a_key(session, held_by_user):
        return
    # A lost or revoked last key must not lock a department out for ever.
    held_by_an_admin = Membership.roles.contains([Role.DEPARTMENT_ADMIN])
    if Role.DEPARTMENT_ADMIN not in membership.roles or _has_a_key(session, held_by_an_admin):
        raise Denied("The operator makes a key for an approver, and for an admin, while there is none.")


def _has_a_key(session: Session, held: ColumnElement[bool]) -> bool:
    alive = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()))
    keys = select(ApiKey.id).join(Membership, Membership.user_id == ApiKey.user_id)
    return session.scalars(keys.where(alive, held).limit(1)).first() is not None


def create_service_account(
    session: Session, principal: Principal, roles: list[str], wish: KeyWish
) -> tuple[ServiceAccount, IssuedKey]:
    """A robot of the department, of the name of its first key. Whoever makes it answers for it."""
    require(principal, Permission.SERVICE_ACCOUNT_MANAGE)
    check_name(wish.name, param="name")
    wanted = parse_roles(roles)
    if wanted & {Role.DEPARTMENT_ADMIN, Role.APPROVER}:
        raise Denied("A service account cannot be an admin or an approver: those decide, and people decide.")
    account = ServiceAccount(
        department_id=principal.department, name=wish.name, roles=sorted(wanted), answered_for_by=principal.human
    )
    session.add(account)
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.SERVICE_ACCOUNT_CREATED,
        resource=("service_account", account.id),
        details={"roles": sorted(wanted)},
    )
    return account, issue(session, principal, wish, Owner(service_account=account.id, roles=account.roles))


def create_platform_account(session: Session, principal: Principal, role: Role) -> IssuedKey:
    """The installation's operator or auditor, made by Tsugiki itself in a platform session at its first start."""
    account = ServiceAccount(department_id=None, name=role.value, roles=[role.value])
    session.add(account)
    session.flush()
    owner = Owner(service_account=account.id, roles=account.roles)
    # Without an end: nobody would be left to make another.
    return _enter(session, principal, owner, name=role.value, age=None, scopes=None)


@dataclass(frozen=True)
class Owner:
    """Whom a key acts for: one of the two, and the roles they have."""

    roles: Sequence[str]
    user: UUID | None = None
    service_account: UUID | None = None


def issue(session: Session, principal: Principal, wish: KeyWish, owner: Owner) -> IssuedKey:
    """A key in the principal's department, once its caller has found that it may be made."""
    age = wish.age or wish.max_age
    if age > wish.max_age:
        raise OutOfRange(f"A key lives {wish.max_age.days} days at most.", param="expires_in_days")
    return _enter(session, principal, owner, name=wish.name, age=age, scopes=_scopes(principal, wish, owner))


def _scopes(principal: Principal, wish: KeyWish, owner: Owner) -> frozenset[Permission] | None:
    """What the key is made for. Raises ScopeExceedsOwner: it may no more than its owner, or the key that makes it."""
    allowed = permissions_of([Role(name) for name in owner.roles])
    wanted = None if wish.scopes is None else parse_scopes(wish.scopes)
    if principal.scopes is not None:
        allowed &= principal.scopes
        wanted = principal.scopes if wanted is None else wanted
    if wanted is not None and not wanted <= allowed:
        beyond = ", ".join(sorted(wanted - allowed))
        raise ScopeExceedsOwner(f"Neither its owner nor the key that asks may give: {beyond}.", param="scopes")
    return wanted


def _enter(
    session: Session,
    principal: Principal,
    owner: Owner,
    *,
    name: str,
    age: timedelta | None,
    scopes: frozenset[Permission] | None,
) -> IssuedKey:
    departments.require_open(session, principal.department)
    made = new_key()
    key = ApiKey(
        department_id=principal.department,
        user_id=owner.user,
        service_account_id=owner.service_account,
        name=name,
        prefix=made.prefix,
        secret_sha256=made.secret_sha256,
        expires_at=None if age is None else session.execute(select(func.now() + age)).scalar_one(),
        scopes=None if scopes is None else sorted(scopes),
    )
    session.add(key)
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.KEY_CREATED,
        resource=("api_key", key.id),
        refs=[each for each in (owner.user, owner.service_account) if each],
        details={"scopes": key.scopes, "expires_at": key.expires_at},
    )
    return IssuedKey(key=key, secret=made.secret, redacted=made.redacted)


def begin_session(session: Session, principal: Principal, *, lasts: timedelta) -> IssuedKey:
    """A key for somebody who has signed in, in the department where they act."""
    require(principal, Permission.SESSION_MANAGE)
    if principal.human is None:
        raise Denied("People sign in.")
    owner = Owner(user=principal.human, roles=sorted(principal.roles))
    return issue(session, principal, KeyWish(name=SESSION, max_age=lasts), owner)


def end_session(session: Session, principal: Principal) -> None:
    """End the key that the principal acts with."""
    require(principal, Permission.SESSION_MANAGE)
    if principal.key_id is None:
        raise Denied("A token of the identity provider ends by itself.")
    _key(session, principal.key_id).revoked_at = session.scalar(select(func.now()))
    audit.record(session, principal, AuditEvent.KEY_REVOKED, resource=("api_key", principal.key_id))


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
    require(principal, Permission.KEY_MANAGE)
    found = _key(session, key)
    if not _is_own(principal, found.user_id):
        require_all(principal, Permission.KEY_MANAGE)
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
    require(principal, Permission.SERVICE_ACCOUNT_MANAGE)
    found = get_service_account(session, principal, account)
    found.deleted_at = session.scalar(select(func.now()))
    revoke_all(session, principal, account)
    audit.record(session, principal, AuditEvent.SERVICE_ACCOUNT_DELETED, resource=("service_account", account))


def revoke_all(session: Session, principal: Principal, account: UUID) -> None:
    """End every key of a service account."""
    _revoke(session, principal, ApiKey.service_account_id == account)


def revoke_all_of(session: Session, principal: Principal, user: UUID) -> None:
    """End every key of a person in the session's department."""
    _revoke(session, principal, ApiKey.user_id == user)


def _revoke(session: Session, principal: Principal, held: ColumnElement[bool]) -> None:
    now = session.scalar(select(func.now()))
    for key in session.scalars(select(ApiKey).where(held, ApiKey.revoked_at.is_(None))):
        key.revoked_at = now
        audit.record(session, principal, AuditEvent.KEY_REVOKED, resource=("api_key", key.id))


def owner_of(session: Session, key: ApiKey) -> tuple[Membership, User] | ServiceAccount:
    """Who a key of the department acts for."""
    if key.service_account_id is not None:
        return session.get_one(ServiceAccount, key.service_account_id)
    membership = session.get_one(Membership, (key.department_id, key.user_id))
    return membership, session.get_one(User, key.user_id)
