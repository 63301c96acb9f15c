"""Watches one engine process until it has ended, whatever ends it."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from runtime.processes import ChildProcess
from runtime.settings import Settings
from workers.engine_process import kill
from workers.fence import Fence
from workers.oom import oom_kills

TICK_S = 0.1


class EndedBy(StrEnum):
    """Who ended a process."""

    ITSELF = "itself"
    # It was asked to, or killed when it took too long.
    STOP = "stop"
    # It told nothing for too long.
    HANG = "hang"


@dataclass(frozen=True)
class Exit:
    """How a process ended. A negative status is a signal's number.

    for_memory: the kernel killed a process for want of memory while this one ran. Where it ended without saying why,
    that is why: it, or a rank of it, was the one.
    """

    status: int
    by: EndedBy
    for_memory: bool = False

    @property
    def told(self) -> str:
        """The end in words for the department."""
        if self.by is EndedBy.HANG:
            return "The training process hung and was killed."
        if self.for_memory:
            return "The machine's memory was used up, and the kernel killed the training process."
        if self.status < 0:
            return f"The training process was killed by {signal.Signals(-self.status).name}."
        return f"The training process ended with status {self.status} and no result."


class Supervisor:
    """Runs processes under the leases of an engine batch.

    They end when one is lost, the worker stops, or somebody asks for the end of every job: a pause, a cancellation.
    """

    def __init__(self, settings: Settings, fence: Fence, stop: threading.Event) -> None:
        self._settings, self._fence, self._stop = settings, fence, stop

    @property
    def must_end(self) -> bool:
        """Whether what runs should come to its end."""
        return self._stop.is_set() or self._fence.all_asked

    def run(
        self,
        child: ChildProcess,
        *,
        follow: Callable[[], bool],
        ask_to_stop: Callable[[], None],
        begin: Callable[[], None] | None = None,
    ) -> Exit:
        """Run the process to its end. Raises LeaseLost; the process is gone in every case.

        From the main thread only: the kernel kills the process when its starting thread ends.
        follow is called all the time and says whether the process has given a sign of life.
        begin sets a process to work that has been started before.
        """
        killed_before = oom_kills()
        if begin is None:
            child.start()
        try:
            if begin is not None:
                begin()
            with self._fence.guard(lambda: kill(child)):
                by = self._watch(child, follow, ask_to_stop)
                # What it wrote between the last look and its end.
                follow()
                self._fence.check()
        finally:
            status = child.reap()
        return Exit(status, by, for_memory=by is EndedBy.ITSELF and status != 0 and oom_kills() > killed_before)

    def _watch(self, child: ChildProcess, follow: Callable[[], bool], ask_to_stop: Callable[[], None]) -> EndedBy:
        by, asked_at, heard_at = EndedBy.ITSELF, 0.0, time.monotonic()
        while not child.ended(TICK_S):
            self._fence.check()
            if follow():
                heard_at = time.monotonic()
            if self._fence.all_cancelled:
                # Nothing of it is wanted any more.
                by = EndedBy.STOP
                kill(child)
            elif by is EndedBy.ITSELF and self.must_end:
                by, asked_at = EndedBy.STOP, time.monotonic()
                ask_to_stop()
            elif by is EndedBy.STOP and time.monotonic() - asked_at > self._settings.stop_grace_s:
                kill(child)
            elif time.monotonic() - heard_at > self._settings.hang_after_s:
                by = EndedBy.HANG
                kill(child)
        return by
