"""How an attempt ends in the database: each verdict is one transaction of the job's department, under its lease."""

import errno
import logging
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from domain.digests import Manifest
from domain.plans import FailureKind, RunFailure, RunReport
from services import adapters, file_erasures, leases
from services.adapters import EvaluationPair
from services.attestations import Attested
from services.claims import Claim, ResumePoint
from services.leases import Asked, JobError
from storage.errors import DigestMismatch, ObjectMissing
from workers.patience import AWAY, StopAsked
from workers.supervisor import Exit

log = logging.getLogger(__name__)

Verdict = Callable[[Session], object]

CRASHED = "worker_crash"
# A further attempt would end in the same way.
FINAL = frozenset(
    {
        FailureKind.BAD_DATA,
        FailureKind.BAD_BASE_MODEL,
        FailureKind.NON_FINITE_LOSS,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.NO_SPACE,
    }
)


class Ended(Exception):  # noqa: N818 - named for the fact
    """The attempt is over, with this verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def registered(
    held: Claim,
    *,
    organisation: str,
    manifest: Manifest,
    attested: Attested,
    report: RunReport,
    evaluation: EvaluationPair | None,
    stored_since: datetime,
) -> Verdict:
    """A version, or the job's cancellation where that was asked for first."""

    def write(session: Session) -> None:
        version = adapters.register(
            session,
            held,
            organisation=organisation,
            manifest=manifest,
            attested=attested,
            report=report,
            evaluation=evaluation,
            stored_since=stored_since,
        )
        if version is not None:
            file_erasures.withdraw_made(session, version)

    return write


def cancelled(held: Claim) -> Verdict:
    """The ranks are gone."""
    return lambda session: leases.cancel(session, held)


def released(held: Claim) -> Verdict:
    """Back to the queue; it counts as no attempt."""
    return lambda session: leases.release(session, held)


def failed(held: Claim, code: str, message: str) -> Verdict:
    """The job cannot succeed."""
    return lambda session: leases.fail(session, held, JobError(code, message))


def crashed(held: Claim, message: str) -> Verdict:
    """The attempt broke: again, unless it was the last."""
    return lambda session: leases.retry_or_fail(session, held, JobError(CRASHED, message))


def of_failure(held: Claim, failure: RunFailure, resume: ResumePoint | None) -> Verdict:
    """What the engine's failure.json asks for."""
    if failure.kind in FINAL:
        at = "" if failure.step is None else f" (step {failure.step})"
        return failed(held, failure.kind.value, failure.message + at)
    if failure.kind is FailureKind.BAD_CHECKPOINT and resume is not None:
        return _without(held, resume)
    return crashed(held, failure.message)


def _without(held: Claim, resume: ResumePoint) -> Verdict:
    def write(session: Session) -> None:
        # There are only so many checkpoints to reject: this ends.
        leases.reject_checkpoint(session, held, resume)
        leases.release(session, held)

    return write


def of_exit(held: Claim, ended: Exit) -> Verdict:
    """The engine wrote no result."""
    if ended.for_memory:
        return lambda session: leases.retry_once(session, held, JobError(leases.OOM_KILLED, ended.told))
    return crashed(held, ended.told)


def of_error(held: Claim, error: Exception, *, asked: Asked) -> Verdict:
    """What was raised ended the attempt. Where it says nothing, the worker itself could not go on."""
    if isinstance(error, Ended):
        return error.verdict
    if isinstance(error, StopAsked):
        return cancelled(held) if asked.to_cancel else released(held)
    log.warning("job %s: the attempt failed", held.job, exc_info=error)
    if isinstance(error, AWAY):
        return released(held)
    if isinstance(error, (ObjectMissing, DigestMismatch)):
        # No checkpoint's, which could be done without.
        message = "The job's files or its base model are missing from storage, or damaged."
        return failed(held, "artifact_missing", message)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return failed(held, FailureKind.NO_SPACE.value, "The worker's disk is full.")
    return crashed(held, "The worker failed unexpectedly.")
