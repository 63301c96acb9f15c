"""Webhook endpoints: who wants to hear of what. A department's hear of it, the organisation's of all departments."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.digests import digest_of
from domain.outgoing import OutgoingKind, new_secret
from domain.refusals import NotFound, OverQuota
from models_db.outgoing import WebhookEndpoint
from models_db.sessions import take_lock
from services import audit
from services.cursors import known_cursor

MAX_ENDPOINTS = 50
# So long both secrets sign, where a change was asked to leave the old one in force.
OVERLAP = timedelta(hours=24)


@dataclass(frozen=True)
class IssuedEndpoint:
    """An endpoint and its secret, which its receiver is given now and never again."""

    endpoint: WebhookEndpoint
    secret: bytes


@dataclass(frozen=True)
class Receiver:
    """Where to send to, and the secrets to sign with."""

    url: str
    keys: tuple[bytes, ...]


def create(
    session: Session, principal: Principal, *, name: str, url: str, event_types: Sequence[OutgoingKind]
) -> IssuedEndpoint:
    """Register an endpoint whose address was found permitted. In a platform session it is the organisation's.

    Raises OverQuota.
    """
    require(principal, Permission.WEBHOOK_MANAGE)
    take_lock(session, f"webhook endpoints of {principal.department}")
    if (session.scalar(select(func.count()).select_from(WebhookEndpoint).where(_alive())) or 0) >= MAX_ENDPOINTS:
        raise OverQuota(f"There are {MAX_ENDPOINTS} endpoints, which is the most.")
    secret = new_secret()
    endpoint = WebhookEndpoint(
        department_id=principal.department,
        name=name,
        url=url,
        event_types=sorted(set(event_types)),
        secret=secret,
        created_by=principal.id,
    )
    session.add(endpoint)
    session.flush()
    _record(session, principal, AuditEvent.WEBHOOK_CREATED, endpoint)
    return IssuedEndpoint(endpoint, secret)


def get(session: Session, principal: Principal, endpoint: UUID) -> WebhookEndpoint:
    """One endpoint. Raises NotFound."""
    require(principal, Permission.WEBHOOK_READ)
    return _endpoint(session, endpoint)


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int
) -> tuple[Sequence[WebhookEndpoint], bool]:
    """A page of endpoints, newest first, and whether there are more."""
    require(principal, Permission.WEBHOOK_READ)
    statement = select(WebhookEndpoint).where(_alive())
    if after is not None:
        statement = statement.where(WebhookEndpoint.id < known_cursor(session, WebhookEndpoint, after))
    found = session.scalars(statement.order_by(WebhookEndpoint.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def change(
    session: Session,
    principal: Principal,
    endpoint: UUID,
    *,
    name: str | None,
    url: str | None,
    event_types: Sequence[OutgoingKind] | None,
) -> WebhookEndpoint:
    """Change what is given; a new address was found permitted. Raises NotFound."""
    require(principal, Permission.WEBHOOK_MANAGE)
    found = _endpoint(session, endpoint, lock=True)
    wanted = {"name": name, "url": url, "event_types": None if event_types is None else sorted(set(event_types))}
    changed = {field: value for field, value in wanted.items() if value is not None and value != getattr(found, field)}
    if not changed:
        return found
    for field, value in changed.items():
        setattr(found, field, value)
    found.updated_at = session.execute(select(func.now())).scalar_one()
    session.flush()
    _record(session, principal, AuditEvent.WEBHOOK_CHANGED, found, changed=sorted(changed))
    return found


def rotate_secret(session: Session, principal: Principal, endpoint: UUID, *, keep_old: bool) -> IssuedEndpoint:
    """Give an endpoint another secret; the old one ends at once, or a day later. Raises NotFound."""
    require(principal, Permission.WEBHOOK_MANAGE)
    found, secret = _endpoint(session, endpoint, lock=True), new_secret()
    now = session.execute(select(func.now())).scalar_one()
    found.old_secret, found.old_secret_ends_at = (found.secret, now + OVERLAP) if keep_old else (None, None)
    found.secret, found.updated_at = secret, now
    session.flush()
    _record(session, principal, AuditEvent.WEBHOOK_SECRET_ROTATED, found, keeps_old=keep_old)
    return IssuedEndpoint(found, secret)


def delete(session: Session, principal: Principal, endpoint: UUID) -> None:
    """Tell it nothing more, and forget its secrets. Raises NotFound."""
    require(principal, Permission.WEBHOOK_MANAGE)
    found = _endpoint(session, endpoint, lock=True)
    # Asked for first: a query writes what was assigned so far.
    now = session.execute(select(func.now())).scalar_one()
    found.secret = found.old_secret = found.old_secret_ends_at = None
    found.deleted_at = now
    session.flush()
    _record(session, principal, AuditEvent.WEBHOOK_DELETED, found)


def receiver_to_test(session: Session, principal: Principal, endpoint: UUID) -> Receiver:
    """Where a sample is to be sent. Raises NotFound."""
    require(principal, Permission.WEBHOOK_MANAGE)
    found = receiver(session, endpoint)
    if found is None:
        raise NotFound("No such webhook endpoint.")
    return found


def receiver(session: Session, endpoint: UUID) -> Receiver | None:
    """Where to send, in the session of the endpoint's owner; None where it is gone, or another's."""
    found = session.get(WebhookEndpoint, endpoint)
    if found is None or found.secret is None:
        return None
    overlaps = found.old_secret_ends_at and found.old_secret_ends_at > session.execute(select(func.now())).scalar_one()
    return Receiver(found.url, (found.secret, found.old_secret) if overlaps and found.old_secret else (found.secret,))


def _endpoint(session: Session, endpoint: UUID, *, lock: bool = False) -> WebhookEndpoint:
    found = session.get(WebhookEndpoint, endpoint, with_for_update=lock)
    if found is None or found.deleted_at is not None:
        raise NotFound("No such webhook endpoint.")
    return found


def _alive() -> ColumnElement[bool]:
    return WebhookEndpoint.deleted_at.is_(None)


def _record(
    session: Session, principal: Principal, event: AuditEvent, endpoint: WebhookEndpoint, **details: object
) -> None:
    # Where it leads is text of the caller's choosing, which the trail does not keep; whether it changed is to be seen.
    about = {"event_types": endpoint.event_types, "url_sha256": digest_of(endpoint.url.encode())}
    audit.record(session, principal, event, resource=("webhook_endpoint", endpoint.id), details=about | details)
