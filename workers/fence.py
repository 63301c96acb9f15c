"""A worker's hold on its leases: renewed by a thread of its own, and given up the moment one may have ended."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

from domain.failpoints import FailPoint, failpoint
from domain.refusals import LeaseLost
from runtime.wiring import Runtime
from services import leases
from services.claims import Claim
from services.leases import Asked
from workers.patience import AWAY

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
NOTHING = Asked(to_cancel=False, to_give_back=False)
# Without an answer from the database the worker gives up this part of a lease before the lease ends.
MARGIN = 1 / 6


class Fence:
    """Renews the leases of an engine batch while it is entered. When one is lost, what `guard` names is killed at once.

    Two clocks: the database's says when the lease has ended; the monotonic one of this machine says when it may have,
    also while a renewal hangs on a connection that is cut.
    """

    def __init__(self, runtime: Runtime, held: Sequence[Claim], *, claimed_at: float) -> None:
        self._runtime = runtime
        self._held = {claim.job: claim for claim in held}
        self._asked: dict[UUID, Asked] = {}
        self._lease_s = runtime.settings.lease_s
        self._lost, self._left = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._kill: Callable[[], None] | None = None
        self._timer = self._timer_from(claimed_at)
        self._thread = threading.Thread(target=self._renew_while_held, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._timer.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(timeout=self._lease_s)
        self._timer.cancel()

    def asked(self, job: UUID) -> Asked:
        """What somebody wants of a job."""
        return self._asked.get(job, NOTHING)

    @property
    def all_cancelled(self) -> bool:
        """Whether nothing of what is held is wanted any more."""
        return bool(self._held) and all(self.asked(job).to_cancel for job in list(self._held))

    @property
    def all_asked(self) -> bool:
        """Whether everything held should come to its end."""
        return bool(self._held) and all(any(self.asked(job)) for job in list(self._held))

    def let_go(self, job: UUID) -> None:
        """Renew it no more: its end is about to be written down, which its lease still lasts for."""
        self._held.pop(job, None)

    def check(self) -> None:
        """Raise LeaseLost once the lease is lost: before every upload, and all the time while ranks run."""
        if self._lost.is_set():
            raise LeaseLost("The lease has ended.")

    def pause(self, seconds: float) -> None:
        """Wait, unless the lease is lost meanwhile. Raises LeaseLost."""
        self._lost.wait(seconds)
        self.check()

    @contextmanager
    def guard(self, kill: Callable[[], None]) -> Iterator[None]:
        """Within it, losing the lease calls `kill` from another thread, whatever this one is waiting for."""
        with self._lock:
            self._kill = kill
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._kill = None

    def _renew_while_held(self) -> None:
        wait_s = self._lease_s / RENEWALS_PER_LEASE
        while not (self._left.wait(wait_s) or self._lost.is_set()):
            # Asked before it is granted: the lease lasts at least this long after the asking.
            asked_at = time.monotonic()
            failpoint(FailPoint.RENEW_BEFORE)
            try:
                for claim in list(self._held.values()):
                    self._renew(claim)
            except LeaseLost:
                self._lose()
                return
            except AWAY as error:
                log.warning("a lease could not be renewed (%s)", type(error).__name__)
                wait_s = self._lease_s / RENEWALS_PER_LEASE**2
                continue
            failpoint(FailPoint.RENEW_COMMITTED)
            self._restart_timer(asked_at)
            wait_s = self._lease_s / RENEWALS_PER_LEASE

    def _renew(self, claim: Claim) -> None:
        try:
            with self._runtime.department(claim.department) as session:
                self._asked[claim.job] = leases.renew(session, claim, lease_s=self._lease_s)
        except LeaseLost:
            # One that was let go meanwhile has ended as it should.
            if claim.job in self._held:
                raise

    def _timer_from(self, renewed_at: float) -> threading.Timer:
        left_s = renewed_at + self._lease_s * (1 - MARGIN) - time.monotonic()
        timer = threading.Timer(max(0.0, left_s), self._lose)
        timer.daemon = True
        return timer

    def _restart_timer(self, renewed_at: float) -> None:
        self._timer.cancel()
        self._timer = self._timer_from(renewed_at)
        self._timer.start()

    def _lose(self) -> None:
        if self._left.is_set():
            return
        log.warning("the lease is lost; the ranks are killed: jobs %s", ", ".join(map(str, self._held)))
        with self._lock:
            self._lost.set()
            if self._kill is not None:
                self._kill()
