"""Nudges to the queue: noted in a transaction, sent after its commit, dropped on its rollback.

The message is a job's id. It says that there is work; the row says what. A lost nudge is sent again by the sweeper.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from domain.jobs import JobState
from models_db.jobs import Job

_KEY = "nudges"


@dataclass(frozen=True)
class Nudge:
    """A job that waits for someone to validate its files, or to train it."""

    job: UUID
    state: JobState


def nudge(session: Session, job: Job) -> None:
    """Note that the job waits. Whoever commits the session rings for it."""
    noted: list[Nudge] = session.info.setdefault(_KEY, [])
    noted.append(Nudge(job=job.id, state=JobState(job.state)))


def take_nudges(session: Session) -> list[Nudge]:
    """What was noted; the session forgets it."""
    noted: list[Nudge] = session.info.pop(_KEY, [])
    return noted
