"""What is told to others by itself: entered with what it tells of, and then on its way until it arrives or is given up.

An event is a row of the business transaction, so that it is told if and only if that is committed. It arrives at least
once: whoever sends may die between the answer and writing it down, and then it is sent again under the same id.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent, Outcome
from domain.ids import IdKind, public_id
from domain.outgoing import OPENLINEAGE, OutgoingKind, retry_after_s
from models_db.adapters import Adapter, AdapterVersion
from models_db.jobs import Job
from models_db.outgoing import OutgoingDelivery, OutgoingEvent
from services import audit
from services.doorbell import nudge_outbox

# Deliveries taken at a time, and events given to their receivers in one transaction.
AT_ONCE = 64


def announce(session: Session, kind: OutgoingKind, *, department: UUID, subject: UUID, data: Mapping[str, Any]) -> UUID:
    """Enter an event to be told to whoever wants to hear of it, and ring for it after the commit. The event's id.

    subject: the job or version that it is about. data holds public ids, digests, numbers and states: it leaves the
    house, and never holds a name of a person or content.
    """
    event = OutgoingEvent(department_id=department, kind=kind, subject_id=subject, data=dict(data))
    session.add(event)
    session.flush()
    nudge_outbox(session, event.id)
    return event.id


def announce_job(session: Session, kind: OutgoingKind, job: Job) -> UUID:
    """One of a job's events: the client's, which tell its id and nothing else."""
    data = {"id": public_id(IdKind.JOB, job.id)}
    return announce(session, kind, department=job.department_id, subject=job.id, data=data)


def announce_version(session: Session, kind: OutgoingKind, version: AdapterVersion, **more: str | int | None) -> UUID:
    """One of a version's events. more: what else there is to tell of it, such as `reason`."""
    data = _told_of(session, version) | more
    return announce(session, kind, department=version.department_id, subject=version.id, data=data)


def announce_alias(session: Session, alias: str, version: AdapterVersion | None, *, adapter: Adapter) -> UUID:
    """An alias stands for another version now, or, where that is None, for none any more."""
    told = _told_of(session, version) if version else {"adapter": adapter.name, "id": None, "version": None}
    return announce(
        session,
        OutgoingKind.ALIAS_MOVED,
        department=adapter.department_id,
        subject=version.id if version else adapter.id,
        data={"alias": alias, **told},
    )


def _told_of(session: Session, version: AdapterVersion) -> dict[str, Any]:
    return {
        "id": public_id(IdKind.ADAPTER_VERSION, version.id),
        "adapter": session.get_one(Adapter, version.adapter_id).name,
        "version": version.number,
        "model": version.model_name,
        "digest": version.digest,
        "state": version.state,
    }


# --- the deliverer's side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A delivery that was taken, with what it carries. `attempt` counts from 1, and is the token of who has it."""

    delivery: UUID
    department: UUID
    receiver: UUID
    attempt: int
    event: UUID
    kind: OutgoingKind
    subject: UUID
    data: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Attempted:
    """What an attempt came to: a status, or why there was none. error is None for one that arrived."""

    status_code: int | None
    error: str | None = None
    # A further attempt would come to the same.
    is_final: bool = False


def fan_out(session: Session, *, lineage_kinds: Collection[OutgoingKind]) -> bool:
    """Give new events to those who want them, in a platform session; whether there may be more.

    lineage_kinds: those that go to the OpenLineage endpoint; none where there is no such.
    """
    seen: int = session.execute(
        text("SELECT fan_out_events(:limit, :kinds)"), {"limit": AT_ONCE, "kinds": list(lineage_kinds)}
    ).scalar_one()
    return seen == AT_ONCE


def claim(session: Session, *, hold_s: float) -> Sequence[tuple[UUID, UUID]]:
    """(delivery, department) of some that are due, in a platform session: for hold_s they are the caller's."""
    rows = session.execute(
        text("SELECT delivery_id, department_id FROM claim_deliveries(:limit, :hold_s)"),
        {"limit": AT_ONCE, "hold_s": hold_s},
    )
    return [(row.delivery_id, row.department_id) for row in rows]


def load(session: Session, delivery: UUID) -> Parcel | None:
    """What a claimed delivery carries, in its department's session; None where it has been settled meanwhile."""
    found = session.get(OutgoingDelivery, delivery)
    if found is None or found.due_at is None:
        return None
    event = session.get_one(OutgoingEvent, found.event_id)
    return Parcel(
        delivery=found.id,
        department=found.department_id,
        receiver=found.receiver,
        attempt=found.attempts,
        event=event.id,
        kind=OutgoingKind(event.kind),
        subject=event.subject_id,
        data=event.data,
        created_at=event.created_at,
    )


def settle(session: Session, parcel: Parcel, attempted: Attempted, *, spread: float) -> None:
    """Write down what an attempt came to: delivered, due again, or given up, which is recorded.

    Nothing happens where somebody else has taken it since. spread: as of `retry_after_s`.
    """
    now, wait_s = func.clock_timestamp(), retry_after_s(parcel.attempt, spread)
    gives_up = attempted.error is not None and (attempted.is_final or wait_s is None)
    values: dict[str, Any] = {"status_code": attempted.status_code, "error": attempted.error}
    if attempted.error is None:
        values |= {"due_at": None, "delivered_at": now}
    elif gives_up:
        values |= {"due_at": None, "given_up_at": now}
    else:
        values |= {"due_at": now + func.make_interval(0, 0, 0, 0, 0, 0, wait_s)}
    held = (
        OutgoingDelivery.id == parcel.delivery,
        OutgoingDelivery.attempts == parcel.attempt,
        OutgoingDelivery.due_at.is_not(None),
    )
    settled = session.execute(update(OutgoingDelivery).where(*held).values(values).returning(OutgoingDelivery.id))
    if settled.first() is not None and gives_up:
        audit.record(
            session,
            access.system(parcel.department),
            AuditEvent.WEBHOOK_GIVEN_UP,
            resource=None if parcel.receiver == OPENLINEAGE else ("webhook_endpoint", parcel.receiver),
            refs=[parcel.subject],
            outcome=Outcome.FAILURE,
            reason=attempted.error,
            details={"event": parcel.event, "kind": parcel.kind, "attempts": parcel.attempt},
        )


def forget(session: Session, *, older_than_s: float) -> None:
    """Remove events that nobody waits for any more, from a platform session."""
    session.execute(text("SELECT forget_outgoing_events(:seconds)"), {"seconds": older_than_s})
