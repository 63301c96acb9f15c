"""Train workers, as they describe themselves. The platform's: no department's rows, and no department is shown them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.workers import WorkerState
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in WorkerState)


class Worker(Table):
    """One process that trains, from its start to its end: started again, it is another worker.

    Its row is what a claim looks at: a worker that drains gets no job, whatever its process believes.
    """

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="retired"),
    )

    id: Mapped[UuidKey]
    name: Mapped[str]
    host: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=WorkerState.ACTIVE)
    device: Mapped[str]
    device_name: Mapped[str | None]
    ranks: Mapped[int]
    threads_per_rank: Mapped[int]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    precision: Mapped[str]
    quantisation: Mapped[str]
    # What a weight of the base takes here; a job's need is told for 16.
    weight_bits: Mapped[int]
    versions: Mapped[dict[str, Any]]
    # What it last measured of itself: a CalibrateReport.
    calibration: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    registered_at: Mapped[CreatedAt]
    seen_at: Mapped[CreatedAt]
    # It is to give the job back that it has, without finishing it.
    release_asked_at: Mapped[datetime | None]
    # Its process is to end once it has no job.
    retire_asked_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
