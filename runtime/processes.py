"""Child processes that never outlive us: started, watched, started again, stopped.

Each child leads its own session, writes to its own log file, and is killed by the kernel when the thread that started
it ends (PR_SET_PDEATHSIG counts threads, not processes). So: start children from a thread that lives as long as they
should, which the main thread does.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

logger = getLogger(__name__)

# setpriv runs last before the program: a change of user clears the death signal. And it fires only for a death to come,
# so the child looks whether its parent is still the one that started it.
_GUARD = '[ "$PPID" = "$0" ] && exec "$@"'
_MAX_LOG_BYTES = 16 << 20
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 15
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
# Who ran for this long was well: its restarts are counted from zero again.
_STEADY_S = 600.0


class ChildEnded(Exception):  # noqa: N818 - named for the fact
    """A child ended that should not have, for good. The message ends with the last lines of its log."""


@dataclass(eq=False)
class ChildProcess:
    """One named program; describing it does not start it.

    `identity` is a command it runs under, to be another user. `death_signal` is what the kernel sends it when its
    starting thread ends. `inherit` are file descriptors it gets beside its standard streams. `restarts` is how often
    a group starts it again after an unexpected end; with `may_end` an end with status 0 is not one.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    identity: Sequence[str] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    inherit: Sequence[int] = ()
    restarts: int = 0
    may_end: bool = False
    started_at: float = field(default=0.0, init=False, repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)
    _pidfd: int = field(default=-1, init=False, repr=False)
    _log_start: int = field(default=0, init=False, repr=False)

    def start(self) -> None:
        """Start the program, or start it again after `reap`. Needs util-linux's setpriv."""
        guard = ["setpriv", "--pdeathsig", self.death_signal.name, "--", "sh", "-c", _GUARD, str(os.getpid())]
        _rotate(self.log)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self.identity, *guard, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                cwd=self.cwd,
                pass_fds=tuple(self.inherit),
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self.started_at = time.monotonic()
        logger.info("started %s, process %d", self.name, self._process.pid)

    @property
    def pid(self) -> int:
        """The process id, which is also the number of the session and of the process group."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def watchable(self) -> bool:
        """Whether it was started and its end not yet collected."""
        return self._pidfd >= 0

    def fileno(self) -> int:
        """For select: readable once the program has ended. Only while watchable."""
        return self._pidfd

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether the program has ended, or does so within the time. Its exit status stays to be collected."""
        return not self.watchable or bool(select.select([self], [], [], max(0.0, within_s))[0])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, not to its group; nothing if it has ended."""
        if self.watchable:
            signal.pidfd_send_signal(self._pidfd, number)

    def reap(self) -> int:
        """Kill what is left of the process group, collect the exit status (negative: the signal that ended it)."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        if self.watchable:
            # Before the wait: while its leader is not collected, nobody else can have the group's number.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        return self._process.wait()

    def stop(self, number: signal.Signals | None = None, timeout_s: float = 10.0) -> int:
        """Send the stop signal, wait, then kill the process group. Returns the exit status."""
        with suppress(ProcessLookupError):
            self.send(number or self.stop_signal)
        if not self.ended(timeout_s):
            logger.warning("%s did not stop within %g s and is killed", self.name, timeout_s)
        return self.reap()

    def log_tail(self) -> str:
        """The last lines the program wrote since it was started."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


def stop_all(children: Iterable[ChildProcess], *, timeout_s: float) -> None:
    """Stop those that run: all signalled at once, one deadline for all, then SIGKILL for their process groups."""
    running = [child for child in children if child.watchable]
    for child in running:
        with suppress(ProcessLookupError):
            child.send(child.stop_signal)
    deadline = time.monotonic() + timeout_s
    for child in running:
        if not child.ended(deadline - time.monotonic()):
            logger.warning("%s did not stop within %g s and is killed", child.name, timeout_s)
        logger.info("%s ended, exit status %d", child.name, child.reap())


class ProcessGroup:
    """Children that run together until SIGTERM or SIGINT, or until one of them ends for good.

    `watched` are children of others, such as embedded servers: not started, restarted or stopped here, but the group
    does not go on without them.
    """

    def __init__(
        self, children: Sequence[ChildProcess], *, watched: Sequence[ChildProcess] = (), stop_timeout_s: float = 15.0
    ) -> None:
        self._children = children
        self._watched = watched
        self._stop_timeout_s = stop_timeout_s
        self._restarts = dict.fromkeys((child.name for child in children), 0)
        # When an ended child is to start again, by its place in the sequence.
        self._due: dict[int, float] = {}

    def run(self) -> None:
        """Start all, keep them running, stop all. Returns after a stop signal; raises ChildEnded otherwise.

        For the main thread only: it takes the process's SIGTERM and SIGINT for the time of the call.
        """
        with _stop_signals() as stop_asked:
            try:
                for child in self._children:
                    child.start()
                while not select.select([stop_asked], [], [], 0)[0]:
                    ended = self.wait_any(self._next_due_s(), wake=stop_asked)
                    if ended is not None:
                        self._take_note(ended)
                    self._start_due()
            finally:
                self.stop()

    def wait_any(self, timeout_s: float | None = None, *, wake: int | None = None) -> ChildProcess | None:
        """A child that has ended, watched ones too; None when the time is over or the descriptor `wake` is readable."""
        watchable = [child for child in (*self._children, *self._watched) if child.watchable]
        waiting: list[ChildProcess | int] = [*watchable, *([] if wake is None else [wake])]
        ready = select.select(waiting, [], [], timeout_s)[0]
        return next((child for child in ready if isinstance(child, ChildProcess)), None)

    def stop(self) -> None:
        """Stop the group's own children within its time; those that do not obey are killed."""
        self._due.clear()
        stop_all(self._children, timeout_s=self._stop_timeout_s)

    def _take_note(self, ended: ChildProcess) -> None:
        """Plan a restart of the ended child; raise ChildEnded if it may have none."""
        if ended in self._watched:
            raise ChildEnded(f"{ended.name} ended\n{ended.log_tail()}")
        status = ended.reap()
        if status == 0 and ended.may_end:
            logger.info("%s has ended, as it may", ended.name)
            return
        if time.monotonic() - ended.started_at > _STEADY_S:
            self._restarts[ended.name] = 0
        restarts = self._restarts[ended.name]
        if restarts >= ended.restarts:
            raise ChildEnded(f"{ended.name} ended with status {status}, after {restarts} restarts\n{ended.log_tail()}")
        wait_s = _BACKOFF_S[min(restarts, len(_BACKOFF_S) - 1)]
        self._restarts[ended.name] += 1
        self._due[self._children.index(ended)] = time.monotonic() + wait_s
        logger.warning("%s ended with status %d; restart %d in %g s", ended.name, status, restarts + 1, wait_s)

    def _next_due_s(self) -> float | None:
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _start_due(self) -> None:
        for place, due in list(self._due.items()):
            if due <= time.monotonic():
                del self._due[place]
                self._children[place].start()


@contextmanager
def _stop_signals() -> Iterator[int]:
    """A file descriptor that is readable once SIGTERM or SIGINT came. The handlers before are put back."""
    readable, writable = os.pipe()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: os.write(writable, b".")) for number in numbers]
    try:
        yield readable
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)


def _rotate(log: Path) -> None:
    """Keep one older log when the file has grown large."""
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))
