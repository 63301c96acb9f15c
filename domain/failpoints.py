"""The points of a job's way at which a process can be made to fail on purpose. Unarmed, passing one costs nothing.

They are named here, and passed through here, because every layer has some: what services, storage, workers and API can
all import is the domain. What happens at a point is decided in `runtime.failpoints`, where the settings are read.
"""

from collections.abc import Callable
from enum import StrEnum


class FailPoint(StrEnum):
    """The closed list, in a job's order. `in_tx` is the end of a transaction, before its commit."""

    # API
    SUBMIT_IN_TX = "submit.in_tx"
    SUBMIT_COMMITTED = "submit.committed"
    # Any process that queues a job
    RING_BEFORE = "ring.before"
    # Validate worker
    VALIDATE_FETCHED = "validate.fetched"
    VALIDATE_IN_TX = "validate.in_tx"
    VALIDATE_COMMITTED = "validate.committed"
    # Train worker
    CLAIM_IN_TX = "claim.in_tx"
    CLAIM_COMMITTED = "claim.committed"
    INPUTS_FETCHED = "inputs.fetched"
    CHECKPOINT_BEFORE_UPLOAD = "checkpoint.before_upload"
    CHECKPOINT_UPLOADED = "checkpoint.uploaded"
    CHECKPOINT_IN_TX = "checkpoint.in_tx"
    CHECKPOINT_COMMITTED = "checkpoint.committed"
    ADAPTER_BEFORE_UPLOAD = "adapter.before_upload"
    ADAPTER_UPLOADED = "adapter.uploaded"
    FINISH_NUMBERED = "finish.numbered"
    FINISH_VERSIONED = "finish.versioned"
    FINISH_IN_TX = "finish.in_tx"
    VERDICT_COMMITTED = "verdict.committed"
    # Its renewing thread
    RENEW_BEFORE = "renew.before"
    RENEW_IN_TX = "renew.in_tx"
    RENEW_COMMITTED = "renew.committed"
    # Sweeper
    EXPIRE_IN_TX = "expire.in_tx"
    EXPIRE_COMMITTED = "expire.committed"
    SWEEP_BEFORE_RING = "sweep.before_ring"
    # Its deliverer
    DELIVERY_ANSWERED = "delivery.answered"
    # Its erasing of files
    ERASURE_MARKED = "erasure.marked"
    ERASURE_OBJECTS_GONE = "erasure.objects_gone"


# Empty, or the one that decides. A list, so that arming replaces nothing that a module has imported.
_armed: list[Callable[[FailPoint], None]] = []


def failpoint(point: FailPoint) -> None:
    """Pass a point."""
    for reached in _armed:
        reached(point)


def arm(reached: Callable[[FailPoint], None]) -> None:
    """From now on `reached` is called at every point that this process passes."""
    _armed[:] = [reached]


def disarm() -> None:
    """Pass all points in silence again."""
    _armed.clear()
