"""Why jobs wait, asked of the database for a page of them at a time."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from domain.jobs import JobState
from domain.waiting import LivingWorker, Queue, Waiting, why
from domain.workers import WorkerState
from models_db.departments import Department
from models_db.jobs import Job
from services import workers
from services.workers import Seen


def reasons(session: Session, jobs: Sequence[Job], *, lease_s: float, half_life_s: float) -> Mapping[UUID, Waiting]:
    """The reasons of those that wait, in their department's session, by the fair order of `half_life_s`.

    Nothing is asked where none is queued.
    """
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    queues = _queues(session, queued, lease_s=lease_s, half_life_s=half_life_s) if queued else {}
    found = {job.id: why(JobState(job.state), job.memory_bytes, queues.get(job.id, Queue())) for job in jobs}
    return {job: reason for job, reason in found.items() if reason is not None}


def _queues(session: Session, queued: Sequence[Job], *, lease_s: float, half_life_s: float) -> dict[UUID, Queue]:
    living = [_living(seen) for seen in workers.living(session, lease_s=lease_s)]
    places = _places(session, [job.id for job in queued], half_life_s)
    limit = _limit_reached(session, queued[0].department_id)
    return {job.id: Queue(living, places.get(job.id), limit) for job in queued}


def _living(seen: Seen) -> LivingWorker:
    worker = seen.worker
    return LivingWorker(
        state=WorkerState(worker.state),
        memory_bytes=worker.memory_bytes,
        weight_bits=worker.weight_bits,
        busy=seen.busy,
    )


def _places(session: Session, jobs: Sequence[UUID], half_life_s: float) -> dict[UUID, int]:
    asked = text("SELECT job_id, place FROM queue_positions(:jobs, :half_life_s)")
    rows = session.execute(asked, {"jobs": list(jobs), "half_life_s": half_life_s})
    return {row.job_id: row.place for row in rows}


def _limit_reached(session: Session, department: UUID) -> int | None:
    limit = session.get_one(Department, department).max_running_jobs
    running = session.scalar(select(func.count()).select_from(Job).where(Job.state == JobState.RUNNING)) or 0
    return limit if limit is not None and running >= limit else None
