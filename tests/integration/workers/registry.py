"""The registry of workers as its operator sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select, text

from domain.access import Principal, PrincipalType, Role
from domain.plans import Device, Precision, Quantisation
from domain.workers import WorkerFacts
from models_db.audit import AuditRecord
from runtime.wiring import Runtime
from services import workers
from services.workers import Seen

LEASE_S = 3
GIB = 1 << 30
OPERATOR = Principal(PrincipalType.SERVICE_ACCOUNT, uuid4(), None, None, frozenset({Role.OPERATOR}))
FACTS = WorkerFacts(
    name="host:1", host="host", device=Device.CPU, device_name=None, ranks=1, threads_per_rank=1, memory_bytes=GIB,
    precision=Precision.BF16, quantisation=Quantisation.NONE, versions={},
)  # fmt: skip


@dataclass
class Registry:
    """What the operator sees and does."""

    runtime: Runtime

    def register(self, **facts: object) -> UUID:
        with self.runtime.platform() as session:
            return workers.register(session, FACTS.model_copy(update=facts))

    def ask(self, ask: Callable[..., None], worker: UUID, **options: bool) -> None:
        with self.runtime.platform() as session:
            ask(session, OPERATOR, worker, **options)

    def seen(self) -> list[Seen]:
        """All that ever were, the oldest first."""
        with self.runtime.platform() as session:
            found, _ = workers.list_page(session, OPERATOR, after=None, limit=100, retired=True, lease_s=LEASE_S)
            return list(found[::-1])

    def only(self) -> Seen:
        (seen,) = self.seen()
        return seen

    def told(self) -> list[str]:
        """The registry's events, in order."""
        with self.runtime.platform() as session:
            events = select(AuditRecord).where(AuditRecord.resource_type == "worker").order_by(AuditRecord.number)
            return [event.action.removeprefix("worker.") for event in session.scalars(events)]

    def somebody_waits_for_a_lock(self) -> bool:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with self.runtime.platform() as session:
            return bool(session.execute(waiting).scalar())
