"""The Celery application of workers: `celery -A workers.app worker`. All Celery oddity lives here and in runtime.queue.

The environment such a worker is started with stays readable to its ranks: `python -m workers.main` starts one without.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from uuid import UUID

from celery import signals

from domain.jobs import JobState
from runtime import logs, wiring
from runtime.queue import COUNT_TASK, DELIVER_TASK, ERASE_TASK, SWEEP_TASK, TRAIN_TASK, VALIDATE_TASK, ring
from runtime.settings import load
from services.doorbell import Nudge
from workers.aside import Aside
from workers.deliveries import Deliverer
from workers.erasures import Eraser
from workers.exports import ExportWriter
from workers.retention import StorageSweep
from workers.sweeper import sweep
from workers.training import Worker
from workers.validation import count, validate

log = logging.getLogger(__name__)

settings = load()
logs.configure(settings.log_level)
runtime = wiring.build(settings)
app = runtime.queue
# One process, one thing at a time: the ranks are processes of their own, and must be started by its main thread.
app.conf.worker_pool = "solo"
storage = Aside("storage", StorageSweep(runtime).portion)
deliveries = Aside("deliveries", Deliverer(runtime).deliver)
exports = Aside("exports", ExportWriter(runtime).write_all)
erasures = Aside("erasures", Eraser(runtime).erase_all)
worker = Worker(runtime, f"{socket.gethostname()}:{os.getpid()}", threading.Event())


def train(job_id: str) -> None:
    """There is work: do it until there is none. Which job rang is no matter.

    A worker that drains hands the ring on, and then hears no more: the next ones go to those who may claim.
    """
    while True:
        while worker.run_next():
            pass
        if worker.stop.is_set() or not worker.is_draining():
            return
        ring(runtime.queue, Nudge(UUID(job_id), JobState.QUEUED))
        worker.sit_out()


def sweep_once() -> None:
    """Lost leases and unrung jobs; beside them a portion of the object store, what others are told, and exports."""
    storage.begin()
    deliveries.begin()
    exports.begin()
    erasures.begin()
    sweep(runtime)


def _task(name: str, work: Callable[..., None]) -> None:
    def run(*arguments: str) -> None:
        try:
            work(*arguments)
        except Exception:
            # The edge: a message that fails is spent, and the worker goes on. The sweeper rings again.
            log.exception("%s %s failed", name, " ".join(arguments))

    app.task(run, name=name)


_task(TRAIN_TASK, train)
_task(VALIDATE_TASK, lambda job_id: validate(runtime, UUID(job_id)))
_task(COUNT_TASK, lambda estimate_id: count(runtime, UUID(estimate_id)))
_task(SWEEP_TASK, sweep_once)
_task(DELIVER_TASK, lambda _event_id: deliveries.begin())
_task(ERASE_TASK, lambda _erasure_id: erasures.begin())


def end() -> None:
    """End this process as its supervisor would: what runs is given back, and the exit status is 0."""
    os.kill(os.getpid(), signal.SIGTERM)


def _on_shutdown(**_about: object) -> None:
    # Celery's warm shutdown waits for the running task: it must hear of it. Asked a second time, it is not waited for.
    if worker.stop.is_set():
        _end_at_once()
    worker.stop.set()


def _end_at_once(*_signal: object) -> None:
    # The kernel kills the ranks; the sweeper finds the job when the lease has run out.
    os._exit(1)


def _on_ready(**_about: object) -> None:
    # Celery's cold shutdown cancels tasks of its pool, which a solo pool cannot: it raises in the middle of ours.
    signal.signal(signal.SIGQUIT, _end_at_once)
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))


signals.worker_shutting_down.connect(_on_shutdown)
signals.worker_ready.connect(_on_ready)
