"""The audit trail: written in the transaction of what it tells of, read by those who may."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, text
from sqlalchemy.exc import DataError, IntegrityError, InternalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent, Outcome
from domain.refusals import Denied
from evidence.canonical import canonical
from models_db.audit import AuditRecord
from models_db.departments import User

_APPEND = text("""
    SELECT audit_append(:department, :actor_type, :actor, :actor_key, :action, :outcome, :reason_code, :resource_type,
        :resource, :refs, :request_id, :source_ip, CAST(:details AS jsonb), :roles, :auth_method, :on_behalf_of,
        :trace_id, :user_agent_hash, :job_epoch, CAST(:before AS jsonb), CAST(:after AS jsonb), :object_sha256,
        :policy_version)
""")


# Every id is a UUID of version 7; this one is nobody's.
_NOBODY = UUID(int=0)
# No right to call it, no partition for this month, a disabled table: not that the database is away.
_NOT_TAKEN = (ProgrammingError, IntegrityError, InternalError, DataError)


class AuditUnavailable(SQLAlchemyError):  # noqa: N818 - named for the fact
    """The trail took no event, so what it would have told of must not happen."""


def record(
    session: Session,
    principal: Principal,
    event: AuditEvent,
    *,
    resource: tuple[str, UUID] | None = None,
    department: UUID | None = None,
    refs: Iterable[UUID] = (),
    outcome: Outcome = Outcome.SUCCESS,
    reason: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    policy_version: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> UUID:
    """Append one event; it is committed with the business transaction or not at all. Returns the event's id.

    department is the principal's where none is given. details, before and after hold ids, digests, numbers and states:
    never names of people, prompts or rows. A digest and an epoch in them are found again in columns of their own.
    """
    told = dict(details or {})
    parameters = {
        "department": department or principal.department,
        "actor_type": principal.type,
        "actor": principal.id,
        "actor_key": principal.key_id,
        "action": event,
        "outcome": outcome,
        "reason_code": reason,
        "resource_type": resource[0] if resource else None,
        "resource": resource[1] if resource else None,
        "refs": list(refs),
        "request_id": principal.request_id,
        "source_ip": principal.source_ip,
        "details": _as_json(told),
        "roles": sorted(principal.roles),
        "auth_method": principal.auth_method,
        "on_behalf_of": principal.answered_for_by,
        "trace_id": principal.trace_id,
        "user_agent_hash": principal.user_agent_hash,
        "job_epoch": told.get("epoch"),
        "before": None if before is None else _as_json(before),
        "after": None if after is None else _as_json(after),
        "object_sha256": told.get("digest"),
        "policy_version": policy_version,
    }
    try:
        appended: UUID = session.execute(_APPEND, parameters).scalar_one()
    except _NOT_TAKEN as error:
        raise AuditUnavailable from error
    return appended


def _as_json(told: Mapping[str, Any]) -> str:
    """As it is stored. Raises NotCanonical for what could not be sealed."""
    written = json.dumps(dict(told), default=str)
    canonical(json.loads(written))
    return written


@dataclass(frozen=True)
class AuditFilter:
    """Which events. Lists are alternatives; empty ones do not filter. Times are inclusive bounds but for gt and lt."""

    actions: Sequence[str] = ()
    departments: Sequence[UUID] = ()
    actors: Sequence[UUID] = ()
    resources: Sequence[UUID] = ()
    outcomes: Sequence[str] = ()
    platform_only: bool = False
    since: datetime | None = None
    until: datetime | None = None
    after: UUID | None = None
    before: UUID | None = None
    limit: int = 20


def people_of(session: Session, emails: Sequence[str]) -> list[UUID]:
    """The people of these addresses, in a platform session; nobody's UUID for an address that is nobody's."""
    found = session.scalars(select(User).where(User.email.in_([each.lower() for each in emails])))
    known = {user.email: user.id for user in found}
    return [known.get(email.lower(), _NOBODY) for email in emails]


def read(session: Session, principal: Principal, wanted: AuditFilter) -> tuple[Sequence[AuditRecord], bool]:
    """Events, newest first, and whether there are more.

    An auditor's `session` reads every department. In a department's session, its admin reads the department's
    events and anyone else their own acts. The reading is itself recorded.
    """
    if not (principal.may(Permission.AUDIT_READ_ALL) or principal.may(Permission.AUDIT_READ_DEPARTMENT)):
        require(principal, Permission.AUDIT_READ_OWN)
        if principal.id is None or (wanted.actors and principal.id not in wanted.actors):
            raise Denied("This key reads its own acts only.")
        wanted = replace(wanted, actors=(principal.id,))
    # The trail keeps no text of a caller's choosing.
    asked_for = [action for action in wanted.actions if action in set(AuditEvent)]
    rows = session.scalars(_filtered(wanted).limit(wanted.limit + 1)).all()
    record(session, principal, AuditEvent.AUDIT_QUERIED, details={"actions": asked_for, "rows": len(rows)})
    # The surplus row is the one furthest from the cursor: the newest of a page that ends before it.
    page = rows[-wanted.limit :] if wanted.before is not None else rows[: wanted.limit]
    return page, len(rows) > wanted.limit


def _filtered(wanted: AuditFilter) -> Select[AuditRecord]:
    statement = select(AuditRecord)
    for column, values in (
        (AuditRecord.action, wanted.actions),
        (AuditRecord.department_id, wanted.departments),
        (AuditRecord.outcome, wanted.outcomes),
    ):
        if values:
            statement = statement.where(column.in_(values))
    if wanted.actors:
        statement = statement.where(
            AuditRecord.actor_id.in_(wanted.actors) | AuditRecord.actor_key_id.in_(wanted.actors)
        )
    if wanted.platform_only:
        statement = statement.where(AuditRecord.department_id.is_(None))
    if wanted.resources:
        statement = statement.where(
            AuditRecord.resource_id.in_(wanted.resources) | AuditRecord.refs.overlap(list(wanted.resources))
        )
    if wanted.since is not None:
        statement = statement.where(AuditRecord.occurred_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(AuditRecord.occurred_at <= wanted.until)
    if wanted.before is not None:
        statement = statement.where(AuditRecord.number > _number_of(wanted.before)).order_by(AuditRecord.number)
        newest_first = statement.limit(wanted.limit + 1).subquery()
        return select(AuditRecord).where(AuditRecord.number.in_(select(newest_first.c.number))).order_by(
            AuditRecord.number.desc()
        )  # fmt: skip
    if wanted.after is not None:
        statement = statement.where(AuditRecord.number < _number_of(wanted.after))
    return statement.order_by(AuditRecord.number.desc())


def _number_of(event: UUID) -> Any:
    return select(AuditRecord.number).where(AuditRecord.id == event).scalar_subquery()
