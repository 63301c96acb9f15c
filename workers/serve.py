"""The worker itself, as `workers.main` starts it."""

import ctypes
import os
import sys

from celery import signals

from runtime.queue import SWEEP_QUEUE, TRAIN_QUEUE, VALIDATE_QUEUE
from workers.app import app

PR_SET_DUMPABLE = 4  # linux/prctl.h

# One process each: a sweep must not wait behind an inspection, nor that behind a training.
QUEUES = {"train": TRAIN_QUEUE, "validate": VALIDATE_QUEUE, "sweep": SWEEP_QUEUE}


def serve(role: str, ready_fd: int | None = None) -> int:
    """Serve until a signal ends it; the exit status. A byte on ready_fd says that a worker listens to its queue."""
    hide_from_children()
    if ready_fd is not None:
        signals.worker_ready.connect(lambda **_about: os.write(ready_fd, b"."), weak=False)
    if role == "beat":
        # One entry every few seconds needs no file to remember when it last ran.
        app.Beat(scheduler="celery.beat:Scheduler", quiet=True).run()
        return 0
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", f"--hostname={role}-{os.getpid()}@%h")
    status: int | None = app.worker_main(["worker", "--pool=solo", "-Q", QUEUES[role], *options])
    return status or 0


def hide_from_children() -> None:
    """Close this process's memory and open files to other processes of its user, its ranks among them. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], *map(int, sys.argv[2:])))
