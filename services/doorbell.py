"""Nudges to the queue: noted in a transaction, sent after its commit, dropped on its rollback.

The message is a row's id. It says that there is work; the row says what. A lost nudge is sent again by the sweeper.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from domain.estimates import EstimateState
from domain.jobs import JobState
from models_db.jobs import Job

_KEY = "nudges"


class OutboxState(StrEnum):
    """What there is to ring for in the outbox."""

    ANNOUNCED = "announced"


class ErasingState(StrEnum):
    """What there is to ring for where a file is erased."""

    CONFIRMED = "confirmed"


@dataclass(frozen=True)
class Nudge:
    """What there is to do: with a job, by its state; rows to count; an event to tell others; a file to erase."""

    subject: UUID
    state: JobState | EstimateState | OutboxState | ErasingState


def nudge(session: Session, job: Job) -> None:
    """Note that the job waits. Whoever commits the session rings for it."""
    _note(session, Nudge(job.id, JobState(job.state)))


def nudge_estimate(session: Session, estimate: UUID) -> None:
    """Note that an estimate's rows are to be counted."""
    _note(session, Nudge(estimate, EstimateState.PENDING))


def nudge_outbox(session: Session, event: UUID) -> None:
    """Note that there is something to tell others. One ring is enough for all that a transaction tells."""
    if not any(nudge.state is OutboxState.ANNOUNCED for nudge in session.info.get(_KEY, [])):
        _note(session, Nudge(event, OutboxState.ANNOUNCED))


def nudge_erasure(session: Session, erasure: UUID) -> None:
    """Note that a file's erasing is confirmed."""
    _note(session, Nudge(erasure, ErasingState.CONFIRMED))


def _note(session: Session, nudge: Nudge) -> None:
    noted: list[Nudge] = session.info.setdefault(_KEY, [])
    noted.append(nudge)


def take_nudges(session: Session) -> list[Nudge]:
    """What was noted; the session forgets it."""
    noted: list[Nudge] = session.info.pop(_KEY, [])
    return noted
