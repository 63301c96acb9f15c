"""Protections taken away, one at a time: what the checker finds then shows that they hold, and that it looks.

Each is taken from one worker's process, before it serves.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kombu.transport.virtual.base import QoS
from sqlalchemy.orm import Session

from domain.digests import Digest
from models_db.adapters import AdapterVersion
from models_db.jobs import Job
from models_db.sessions import enter_department
from runtime.processes import ChildProcess
from services import adapters, leases
from services.claims import Claim
from services.jobs import close
from storage import objects
from workers import sweeper
from workers.fence import Fence


def _fence() -> None:
    """Whoever once held a job may write, and nothing is killed when a lease is lost."""

    def hold(session: Session, held: Claim) -> Job:
        return session.get_one(Job, held.job, with_for_update=True)

    def close_again(session: Session, job: Job, state: Any) -> None:
        # Behind the fence stands the table of states: what has finished does not finish again.
        if job.finished_at is None:
            close(session, job, state)

    replace(leases, "hold", hold)
    replace(adapters, "close", close_again)
    replace(Fence, "_lose", lambda _fence: None)


def _one_transaction() -> None:
    """The version is committed before the audit trail and the job's end are written."""
    next_version = adapters._next_version  # noqa: SLF001

    def committed(session: Session, job: Job, **more: Any) -> AdapterVersion:
        version = next_version(session, job, **more)
        session.connection().exec_driver_sql("COMMIT")
        enter_department(session, job.department_id)
        return version

    replace(adapters, "_next_version", committed)


def _sweep() -> None:
    """Nobody takes a job from a lost worker."""
    replace(leases, "expire", lambda _session, _job: None)


def _second_ring() -> None:
    """A nudge is sent once; if it is lost, it is lost."""
    replace(sweeper, "ring_again", lambda _queue, _nudges: None)


def _prefetch() -> None:
    """Messages are held up to a limit of one."""
    replace(QoS, "can_consume", lambda qos: len(qos._delivered) - len(qos._dirty) < 1)  # noqa: SLF001


def _digests() -> None:
    """What comes from storage is taken for what was put there."""

    def unchecked(_key: Any, body: Any, _digest: Digest) -> Iterator[bytes]:
        yield body.read()

    replace(objects, "_checked", unchecked)


def _death_signal() -> None:
    """Children do not hear of their parent's death."""
    start = ChildProcess.start

    def unbound(child: ChildProcess) -> None:
        # Ignored by whoever does not ask for it.
        child.death_signal = signal.SIGWINCH
        start(child)

    replace(ChildProcess, "start", unbound)


def replace(owner: object, name: str, value: object) -> None:
    """Put another thing in the place of a name of a module or a class, which a checker of types would not have."""
    setattr(owner, name, value)


PROTECTIONS: Mapping[str, Callable[[], None]] = {
    "fence": _fence,
    "one-transaction": _one_transaction,
    "sweep": _sweep,
    "second-ring": _second_ring,
    "prefetch": _prefetch,
    "digests": _digests,
    "death-signal": _death_signal,
}


def remove(names: Sequence[str]) -> None:
    """Take these away from this process."""
    for name in names:
        PROTECTIONS[name]()
