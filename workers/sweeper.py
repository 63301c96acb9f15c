"""What makes the queue dispensable: leases that ran out are ended, and waiting jobs are rung for again.

And what makes room for urgent jobs; and, last, the departments' accounts. It also tells of a sealer that is behind.
"""

import logging

from sqlalchemy.exc import SQLAlchemyError

from domain.estimates import EstimateState
from domain.failpoints import FailPoint, failpoint
from domain.refusals import Refusal
from runtime.queue import ring_again
from runtime.wiring import Runtime
from services import break_glass, estimates, leases, sealing, workers
from services.doorbell import Nudge
from workers.accounts import keep_accounts

log = logging.getLogger(__name__)


def sweep(runtime: Runtime) -> None:
    """Sweep once. Any number may do so at a time: a job is taken from a lost worker once, and rung for by one."""
    with runtime.platform() as session:
        expired = leases.expired(session)
    for job, department in expired:
        try:
            with runtime.department(department) as session:
                leases.expire(session, job)
            failpoint(FailPoint.EXPIRE_COMMITTED)
        except (SQLAlchemyError, Refusal):
            # The next sweep finds it again; the others are not to wait for it.
            log.exception("job %s: its lost worker could not be swept", job)
    _preempt(runtime)
    _end_emergencies(runtime)
    with runtime.platform() as session:
        workers.retire_forgotten(session)
    with runtime.platform() as session:
        waiting = leases.to_nudge(session, runtime.settings.nudge_after_s)
        uncounted = estimates.to_nudge(session, runtime.settings.nudge_after_s)
        estimates.forget(session, inspections_after_s=runtime.settings.inspection_kept_s)
    failpoint(FailPoint.SWEEP_BEFORE_RING)
    nudges = [Nudge(job, state) for job, state in waiting]
    ring_again(runtime.queue, [*nudges, *(Nudge(estimate, EstimateState.PENDING) for estimate in uncounted)])
    keep_accounts(runtime)
    _watch_sealer(runtime)


def _watch_sealer(runtime: Runtime) -> None:
    """From here, since a sealer that has ended tells of nothing."""
    with runtime.platform() as session:
        lag_s = sealing.lag_s(session)
    if lag_s > sealing.ALARM_AFTER_S:
        log.error("AUDIT ALARM: the oldest event without a seal has waited for %.0f s", lag_s)


def _end_emergencies(runtime: Runtime) -> None:
    """Their keys have ended by themselves: what is left is to say so."""
    with runtime.platform() as session:
        ended = break_glass.over(session)
    for glass, department in ended:
        with runtime.department(department) as session:
            break_glass.expire(session, glass)


def _preempt(runtime: Runtime) -> None:
    settings = runtime.settings
    with runtime.platform() as session:
        yielding = leases.to_preempt(
            session, after_s=settings.preempt_after_s, half_life_s=settings.fair_share_half_life_s
        )
    for job, department in yielding:
        with runtime.department(department) as session:
            leases.preempt(session, job)
