"""A worker's hold on its lease: renewed by a thread of its own, and given up the moment it may have ended."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from domain.refusals import LeaseLost
from runtime.wiring import Runtime
from services import leases
from services.leases import Claim
from workers.patience import AWAY

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
# Without an answer from the database the worker gives up this part of a lease before the lease ends.
MARGIN = 1 / 6


class Fence:
    """Renews the lease while it is entered. When the lease is lost, what `guard` names is killed at once.

    Two clocks: the database's says when the lease has ended; the monotonic one of this machine says when it may have,
    also while a renewal hangs on a connection that is cut.
    """

    def __init__(self, runtime: Runtime, held: Claim, *, claimed_at: float) -> None:
        self._runtime, self._held = runtime, held
        self._lease_s = runtime.settings.lease_s
        self._lost, self._left, self._cancel = threading.Event(), threading.Event(), threading.Event()
        self._give_back = threading.Event()
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

    @property
    def cancel_asked(self) -> bool:
        """Whether the department has asked for the job's cancellation."""
        return self._cancel.is_set()

    @property
    def give_back_asked(self) -> bool:
        """Whether the job should go back from where it is, with a checkpoint."""
        return self._give_back.is_set()

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
            try:
                with self._runtime.department(self._held.department) as session:
                    asked = leases.renew(session, self._held, lease_s=self._lease_s)
            except LeaseLost:
                self._lose()
                return
            except AWAY as error:
                log.warning("job %s: the lease could not be renewed (%s)", self._held.job, type(error).__name__)
                wait_s = self._lease_s / RENEWALS_PER_LEASE**2
                continue
            self._restart_timer(asked_at)
            wait_s = self._lease_s / RENEWALS_PER_LEASE
            if asked.to_cancel:
                self._cancel.set()
            if asked.to_give_back:
                self._give_back.set()

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
        log.warning("job %s: the lease is lost; its ranks are killed", self._held.job)
        with self._lock:
            self._lost.set()
            if self._kill is not None:
                self._kill()
