"""Refusals of permission and quota, written to the audit trail although their own transaction rolled back."""

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError

from domain.audit import AuditEvent, Outcome
from domain.refusals import ForeignDepartment, Refusal
from services import audit

if TYPE_CHECKING:
    from domain.access import Principal
    from runtime.wiring import Runtime

log = logging.getLogger(__name__)

BURST, PER_SECOND = 20.0, 0.5
_MAX_PRINCIPALS = 10_000


class DenialBudget:
    """A token bucket for each key: a client in a loop must not fill the audit trail."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._buckets: dict[UUID | None, tuple[float, float]] = {}

    def take(self, key: UUID | None) -> bool:
        """Whether one more may be written for this key now."""
        now = self._clock()
        with self._lock:
            if len(self._buckets) > _MAX_PRINCIPALS:
                self._buckets.clear()
            tokens, since = self._buckets.get(key, (BURST, now))
            tokens = min(BURST, tokens + (now - since) * PER_SECOND)
            self._buckets[key] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
            return tokens >= 1


def record_denial(request: Request, refusal: Refusal) -> None:
    """Append `access.denied` in a transaction of its own. Nothing happens before the caller is known."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None or not request.app.state.denials.take(principal.key_id):
        return
    runtime: Runtime = request.app.state.runtime
    opened = runtime.platform() if principal.department is None else runtime.department(principal.department)
    reason = "foreign_department" if isinstance(refusal, ForeignDepartment) else refusal.code
    details = {"route": getattr(request.scope.get("route"), "path", None), "method": request.method}
    try:
        with opened as session:
            audit.record(
                session, principal, AuditEvent.ACCESS_DENIED, outcome=Outcome.DENIED, reason=reason,
                details=details,
            )  # fmt: skip
    except SQLAlchemyError as error:
        log.warning("A denial could not be recorded: %s", type(error).__name__)
