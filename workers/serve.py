"""The worker itself, as `workers.main` starts it."""

import os
import sys

from celery import signals

from runtime.queue import SWEEP_QUEUE, TRAIN_QUEUE, VALIDATE_QUEUE
from runtime.settings import hide_memory
from workers import app as edge

# One process each: a sweep must not wait behind an inspection, nor that behind a training.
QUEUES = {"train": TRAIN_QUEUE, "validate": VALIDATE_QUEUE, "sweep": SWEEP_QUEUE}


def serve(role: str, ready_fd: int | None = None) -> int:
    """Serve until a signal ends it; the exit status. A byte on ready_fd says that a worker listens to its queue."""
    hide_memory()
    if ready_fd is not None:
        signals.worker_ready.connect(lambda **_about: os.write(ready_fd, b"."), weak=False)
    if role == "beat":
        # One entry every few seconds needs no file to remember when it last ran.
        edge.app.Beat(scheduler="celery.beat:Scheduler", quiet=True).run()
        return 0
    if role == "train":
        # Celery's main thread, which outlives every task.
        signals.worker_ready.connect(lambda **_about: edge.worker.warm.start(), weak=False)
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", f"--hostname={role}-{os.getpid()}@%h")
    try:
        status: int | None = edge.app.worker_main(["worker", "--pool=solo", "-Q", QUEUES[role], *options])
    finally:
        edge.worker.warm.close()
    return status or 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], *map(int, sys.argv[2:])))
