"""How long a worker waits for a store or a database that is away: as long as it holds its lease, within a limit."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from domain.digests import Digest
from storage.errors import DigestMismatch, ObjectMissing, StorageUnavailable
from storage.keys import Key
from storage.objects import ObjectStore

Result = TypeVar("Result")
# Waits so many seconds, or raises to give up: LeaseLost, StopAsked.
Pause = Callable[[float], None]

# What another try may mend: no answer, a broken connection, a lock not granted in time, a deadlock.
AWAY = (StorageUnavailable, OperationalError, InterfaceError)
LIMIT_S = 15 * 60
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
READS, READ_AGAIN_AFTER_S = 3, 1.0


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
        """Fetch one object. Raises also ObjectMissing or DigestMismatch, where READS readings came to it."""
        self.pause(0)
        fetch = partial(objects.fetch, key, destination, digest)
        for _ in range(READS - 1):
            # Bytes that changed on their way, or a store that has just started, are not what is stored.
            with suppress(ObjectMissing, DigestMismatch):
                return self.insist(fetch)
            self.pause(READ_AGAIN_AFTER_S)
        return self.insist(fetch)
