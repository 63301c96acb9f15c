"""What the sweeper has done beside its own work: a store or a receiver that is away takes minutes."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Aside:
    """One piece of work, in a thread of its own, once at a time. Asked while it is at work, it looks once more."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._thread: threading.Thread | None = None
        self._asked = threading.Event()

    def begin(self) -> None:
        """Have it done, and return."""
        self._asked.set()
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._run_or_log, name=self._name, daemon=True)
        self._thread.start()

    def _run_or_log(self) -> None:
        try:
            while self._asked.is_set():
                self._asked.clear()
                self._work()
        except Exception:
            # The edge: the next sweep begins again.
            log.exception("%s could not be gone through", self._name)
