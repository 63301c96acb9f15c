"""The worker itself, as `workers.main` starts it."""

import os
import signal
import sys
import threading

from celery import signals

from runtime.queue import SWEEP_QUEUE, TRAIN_QUEUE, VALIDATE_QUEUE
from runtime.settings import hide_memory
from workers import app as edge
from workers.capabilities import facts_of
from workers.presence import Presence
from workers.sealer import Sealer

# One process each: a sweep must not wait behind an inspection, nor that behind a training.
QUEUES = {"train": TRAIN_QUEUE, "validate": VALIDATE_QUEUE, "sweep": SWEEP_QUEUE}


def serve(role: str, ready_fd: int | None = None) -> int:
    """Serve until a signal ends it; the exit status. A byte on ready_fd says that a worker listens to its queue."""
    hide_memory()
    if role == "seal":
        return _seal(ready_fd)
    if ready_fd is not None:
        signals.worker_ready.connect(lambda **_about: os.write(ready_fd, b"."), weak=False)
    if role == "beat":
        # One entry every few seconds needs no file to remember when it last ran.
        edge.app.Beat(scheduler="celery.beat:Scheduler", quiet=True).run()
        return 0
    if role == "train":
        edge.worker.presence = _presence()
        # Celery's main thread, which outlives every task.
        signals.worker_ready.connect(_begin, weak=False)
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", f"--hostname={role}-{os.getpid()}@%h")
    try:
        status: int | None = edge.app.worker_main(["worker", "--pool=solo", "-Q", QUEUES[role], *options])
    finally:
        edge.worker.warm.close()
        if edge.worker.presence is not None:
            edge.worker.presence.close()
    return status or 0


def _seal(ready_fd: int | None) -> int:
    """The sealer hears no queue: it is ready when it begins."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sealer = Sealer(edge.runtime, stop)
    if ready_fd is not None:
        os.write(ready_fd, b".")
    sealer.run()
    return 0


def _presence() -> Presence:
    return Presence(
        edge.runtime,
        facts_of(edge.settings, edge.worker.name),
        measured=lambda: edge.worker.calibrations.newest,
        end=edge.end,
    )


def _begin(**_about: object) -> None:
    if edge.worker.presence is not None:
        edge.worker.presence.start()
    edge.worker.warm.start()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], *map(int, sys.argv[2:])))
