"""Nudges to the queue: noted in a transaction, sent after its commit, dropped on its rollback.

The message is a row's id. It says that there is work; the row says what. A lost nudge is sent again by the sweeper.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from domain.estimates import EstimateState
from domain.jobs import JobState
from models_db.jobs import Job

_KEY = "nudges"


@dataclass(frozen=True)
class Nudge:
    """A job whose files are to be validated, or that is to be trained; or an estimate whose rows are to be counted."""

    subject: UUID
    state: JobState | EstimateState


def nudge(session: Session, job: Job) -> None:
    """Note that the job waits. Whoever commits the session rings for it."""
    _note(session, Nudge(job.id, JobState(job.state)))


def nudge_estimate(session: Session, estimate: UUID) -> None:
    """Note that an estimate's rows are to be counted."""
    _note(session, Nudge(estimate, EstimateState.PENDING))


def _note(session: Session, nudge: Nudge) -> None:
    noted: list[Nudge] = session.info.setdefault(_KEY, [])
    noted.append(nudge)


def take_nudges(session: Session) -> list[Nudge]:
    """What was noted; the session forgets it."""
    noted: list[Nudge] = session.info.pop(_KEY, [])
    return noted
