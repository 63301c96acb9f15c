"""Train workers: what they say of themselves, and what the operator asks of them. Times are the database's."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select, text
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.plans import CalibrateReport, Quantisation
from domain.refusals import NotFound
from domain.workers import LOST_AFTER_LEASES, WorkerFacts, WorkerState, check_alive, weight_bits
from models_db.workers import Worker
from services import audit
from services.cursors import known_cursor

# Nobody waits for the sign of life of a worker that was lost so long ago.
FORGOTTEN_AFTER_S = 24 * 3600


@dataclass(frozen=True)
class Orders:
    """What a worker hears at a sign of life: whether it gets no job now, and whether it is to end."""

    draining: bool
    to_end: bool


@dataclass(frozen=True)
class Seen:
    """A worker as it looks now. lost: it was not heard of lately. busy: it holds a lease."""

    worker: Worker
    lost: bool
    busy: bool


# --- the worker's own -------------------------------------------------------------------------------------------------


def register(session: Session, facts: WorkerFacts) -> UUID:
    """Enter a worker that has just started."""
    described = facts.model_dump(mode="json")
    worker = Worker(**described, weight_bits=weight_bits(facts.precision, facts.quantisation))
    session.add(worker)
    session.flush()
    told = ("device", "ranks", "threads_per_rank", "memory_bytes", "precision", "quantisation")
    audit.record(
        session,
        access.system(None),
        AuditEvent.WORKER_REGISTERED,
        resource=("worker", worker.id),
        details={name: described[name] for name in told},
    )
    return worker.id


def sign_of_life(session: Session, worker: UUID, measured: CalibrateReport | None) -> Orders | None:
    """Remember that it lives, and what it has measured; what it is to do. None: it is registered no more."""
    found = session.get(Worker, worker, with_for_update={"key_share": True})
    if found is None or found.state == WorkerState.RETIRED:
        return None
    found.seen_at = session.execute(select(func.clock_timestamp())).scalar_one()
    if measured is not None:
        # `auto` has become what it means on this machine.
        found.device, found.precision = measured.device, measured.precision
        found.weight_bits = weight_bits(measured.precision, Quantisation(found.quantisation))
        found.calibration = measured.model_dump(mode="json")
    to_end = found.retire_asked_at is not None and worker not in _busy(session)
    return Orders(draining=found.state == WorkerState.DRAINING, to_end=to_end)


def leave(session: Session, worker: UUID) -> None:
    """The worker ends by itself."""
    found = session.get(Worker, worker, with_for_update=True)
    if found is not None and found.state != WorkerState.RETIRED:
        _retire(session, found, reason=None)


def retire_forgotten(session: Session) -> None:
    """End the rows of workers that were lost a day ago."""
    forgotten = select(Worker).where(Worker.state != WorkerState.RETIRED, _silent_for(FORGOTTEN_AFTER_S))
    for worker in session.scalars(forgotten.with_for_update(skip_locked=True)):
        _retire(session, worker, reason="lost")


def _retire(session: Session, worker: Worker, *, reason: str | None) -> None:
    now = session.scalar(select(func.now()))
    worker.state, worker.retired_at = WorkerState.RETIRED, now
    session.flush()
    audit.record(session, access.system(None), AuditEvent.WORKER_RETIRED, resource=("worker", worker.id), reason=reason)


def admitted(session: Session, worker: UUID) -> Worker | None:
    """The worker, if it may take a job now: until this transaction ends nobody drains it."""
    statement = select(Worker).where(Worker.id == worker, Worker.state == WorkerState.ACTIVE)
    return session.scalars(statement.with_for_update(read=True)).one_or_none()


# --- the operator's ---------------------------------------------------------------------------------------------------


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int, retired: bool, lease_s: float
) -> tuple[Sequence[Seen], bool]:
    """A page of the workers, newest first, and whether there are more; those that have ended only where asked for."""
    require(principal, Permission.WORKER_READ)
    statement = _looked_at(lease_s).order_by(Worker.id.desc())
    if after is not None:
        statement = statement.where(Worker.id < known_cursor(session, Worker, after))
    if not retired:
        statement = statement.where(Worker.state != WorkerState.RETIRED)
    found = _seen(session, statement.limit(limit + 1))
    return found[:limit], len(found) > limit


def get(session: Session, principal: Principal, worker: UUID, *, lease_s: float) -> Seen:
    """One worker. Raises NotFound."""
    require(principal, Permission.WORKER_READ)
    found = _seen(session, _looked_at(lease_s).where(Worker.id == worker))
    if not found:
        raise NotFound("No such worker.")
    return found[0]


def living(session: Session, *, lease_s: float) -> Sequence[Seen]:
    """The workers that were heard of lately, for Tsugiki's own questions."""
    silent = _silent_for(LOST_AFTER_LEASES * lease_s)
    return _seen(session, _looked_at(lease_s).where(Worker.state != WorkerState.RETIRED, ~silent))


def drain(session: Session, principal: Principal, worker: UUID, *, now: bool) -> None:
    """Give the worker no more jobs; with `now` it also gives back the one it has. Raises NotFound, WorkerRetired."""
    found = _to_manage(session, principal, worker)
    _ask_to_drain(session, found, now=now)
    audit.record(session, principal, AuditEvent.WORKER_DRAINED, resource=("worker", worker), details={"now": now})


def undrain(session: Session, principal: Principal, worker: UUID) -> None:
    """Let the worker take jobs again, and stay. Raises NotFound, WorkerRetired."""
    found = _to_manage(session, principal, worker)
    found.state = WorkerState.ACTIVE
    found.release_asked_at = found.retire_asked_at = None
    session.flush()
    audit.record(session, principal, AuditEvent.WORKER_UNDRAINED, resource=("worker", worker))


def retire(session: Session, principal: Principal, worker: UUID, *, now: bool) -> None:
    """Drain the worker; once it has no job, its process ends. Raises NotFound, WorkerRetired."""
    found = _to_manage(session, principal, worker)
    _ask_to_drain(session, found, now=now)
    found.retire_asked_at = found.retire_asked_at or session.scalar(select(func.now()))
    session.flush()
    audit.record(
        session, principal, AuditEvent.WORKER_RETIRE_REQUESTED, resource=("worker", worker), details={"now": now}
    )


def _to_manage(session: Session, principal: Principal, worker: UUID) -> Worker:
    require(principal, Permission.WORKER_MANAGE)
    # Waits for a claim that has begun: whatever it took before this, it has.
    found = session.get(Worker, worker, with_for_update=True)
    if found is None:
        raise NotFound("No such worker.")
    check_alive(found.state)
    return found


def _ask_to_drain(session: Session, worker: Worker, *, now: bool) -> None:
    asked_at = session.scalar(select(func.now())) if now else None
    worker.state = WorkerState.DRAINING
    worker.release_asked_at = worker.release_asked_at or asked_at
    session.flush()


# --- looking ----------------------------------------------------------------------------------------------------------


def _looked_at(lease_s: float) -> Select[Worker, bool]:
    lost = (Worker.state != WorkerState.RETIRED) & _silent_for(LOST_AFTER_LEASES * lease_s)
    return select(Worker, lost)


def _silent_for(seconds: float) -> ColumnElement[bool]:
    return Worker.seen_at < func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _seen(session: Session, statement: Select[Worker, bool]) -> Sequence[Seen]:
    busy = _busy(session)
    # Fresh: an object that this session has seen before keeps what it saw.
    rows = session.execute(statement, execution_options={"populate_existing": True})
    return [Seen(worker, lost, busy=worker.id in busy) for worker, lost in rows]


def _busy(session: Session) -> frozenset[UUID]:
    return frozenset(session.execute(text("SELECT busy_workers()")).scalars())
