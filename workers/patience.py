"""How long a worker waits for a store or a database that is away: as long as it holds its lease, within a limit."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from domain.digests import Digest
from storage.errors import StorageUnavailable
from storage.keys import Key
from storage.objects import ObjectStore

Result = TypeVar("Result")
# Waits so many seconds, or raises to give up: LeaseLost, StopAsked.
Pause = Callable[[float], None]

# What another try may mend: no answer, a broken connection, a lock not granted in time, a deadlock.
AWAY = (StorageUnavailable, OperationalError, InterfaceError)
LIMIT_S = 15 * 60
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class StopAsked(Exception):  # noqa: N818 - named for the fact
    """The worker is to end: the run goes back to the queue."""


class Patience:
    """Tries again what failed because something is away, after growing waits of random length."""

    def __init__(self, pause: Pause, limit_s: float = LIMIT_S) -> None:
        self.pause = pause
        self._limit_s = limit_s

    def insist(self, operation: Callable[[], Result]) -> Result:
        """The operation's result, tried at least once. Raises one of AWAY after the limit, and what `pause` raises."""
        begun, longest_s = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                return operation()
            except AWAY:
                if time.monotonic() - begun >= self._limit_s:
                    raise
            # Full jitter: workers that lost the store together must not all come back together.
            self.pause(random.uniform(0, longest_s))  # noqa: S311 - spreads load, hides nothing
            longest_s = min(LONGEST_WAIT_S, longest_s * 2)

    def fetch(self, objects: ObjectStore, key: Key, destination: Path, digest: Digest) -> None:
        """Fetch one object. Raises also ObjectMissing or DigestMismatch."""
        self.pause(0)
        self.insist(lambda: objects.fetch(key, destination, digest))
