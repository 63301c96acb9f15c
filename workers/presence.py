"""The worker in the registry: entered at its start, alive by a thread of its own, taken out at its end."""

import logging
import threading
from collections.abc import Callable
from uuid import UUID

from domain.plans import CalibrateReport
from domain.workers import WorkerFacts
from runtime.wiring import Runtime
from services import workers
from services.workers import Orders
from workers.patience import AWAY

log = logging.getLogger(__name__)

SIGNS_PER_LEASE = 4


class Presence:
    """Says that the worker lives, four times a lease, whatever its main thread is at; and hears what it is to do.

    `measured` gives what the worker last measured of itself. `end` ends its process: called, from the thread, when the
    operator has retired the worker and it holds no job any more.
    """

    def __init__(
        self,
        runtime: Runtime,
        facts: WorkerFacts,
        *,
        measured: Callable[[], CalibrateReport | None],
        end: Callable[[], None],
    ) -> None:
        self._runtime, self._facts, self._measured, self._end = runtime, facts, measured, end
        self._worker: UUID | None = None
        # As was last heard.
        self.draining = False
        self._closed = threading.Event()
        # Registering and giving signs: the thread's, and the main thread's before it claims.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, name="presence", daemon=True)

    @property
    def device(self) -> str:
        """What its ranks compute on, by name where it could be found out."""
        return self._facts.device_name or self._facts.device.value

    def start(self) -> None:
        """Register, and keep alive from now on. While the database is away, the thread tries again."""
        try:
            self.registered()
        except AWAY as error:
            log.warning("the worker is not registered yet (%s)", type(error).__name__)
        self._thread.start()

    def registered(self) -> UUID:
        """The worker's id in the registry, entered now if it is not there yet. Raises what the database raises."""
        with self._lock:
            if self._worker is None:
                with self._runtime.platform() as session:
                    self._worker = workers.register(session, self._facts)
                log.info("registered as worker %s", self._worker)
            return self._worker

    def look(self) -> Orders:
        """Give a sign of life, and hear what is to be done. Raises what the database raises."""
        worker = self.registered()
        with self._runtime.platform() as session:
            orders = workers.sign_of_life(session, worker, self._measured())
        if orders is None:
            # Cut off for so long that it was given up: from now on it is another worker.
            with self._lock:
                self._worker = None
            orders = Orders(draining=False, to_end=False)
        self.draining = orders.draining
        return orders

    def close(self) -> None:
        """The worker ends. One that cannot say so is shown as lost."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._runtime.settings.lease_s)
        if self._worker is None:
            return
        try:
            with self._runtime.platform() as session:
                workers.leave(session, self._worker)
        except AWAY as error:
            log.warning("the worker could not take itself out of the registry (%s)", type(error).__name__)

    def _live(self) -> None:
        while not self._closed.wait(self._runtime.settings.lease_s / SIGNS_PER_LEASE):
            try:
                orders = self.look()
            except AWAY as error:
                log.warning("no sign of life could be given (%s)", type(error).__name__)
                continue
            if orders.to_end:
                log.info("the worker is retired and holds no job: it ends")
                self._end()
                return
