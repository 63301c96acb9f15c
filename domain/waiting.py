"""Why a job waits, as one rule: the first reason that holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from domain.jobs import JobState
from domain.workers import WorkerState, capacity_bytes, fits

_GIB = 1 << 30


class WaitingCode(StrEnum):
    """The reason, for a program; stable."""

    VALIDATING_FILES = "validating_files"
    PAUSED = "paused"
    NO_WORKER = "no_worker"
    WORKERS_DRAINING = "workers_draining"
    NOT_ENOUGH_MEMORY = "not_enough_memory"
    DEPARTMENT_LIMIT = "department_limit"
    WORKERS_BUSY = "workers_busy"
    STARTING = "starting"


@dataclass(frozen=True)
class Waiting:
    """Why a job waits.

    position: its place among all queued jobs, from 1. The bytes: what it needs, and what the largest worker takes.
    """

    code: WaitingCode
    message: str
    position: int | None = None
    needed_bytes: int | None = None
    largest_bytes: int | None = None


@dataclass(frozen=True)
class LivingWorker:
    """A registered worker that was heard of lately."""

    state: WorkerState
    memory_bytes: int | None
    weight_bits: int
    busy: bool


@dataclass(frozen=True)
class Queue:
    """What a queued job finds. running_limit: of its department, where that runs as many jobs as it may."""

    living: Sequence[LivingWorker] = ()
    position: int | None = None
    running_limit: int | None = None


def why(state: JobState, needed_bytes: int | None, queue: Queue) -> Waiting | None:
    """The reason for which a job in this state waits; None where it does not."""
    if state is JobState.VALIDATING_FILES:
        return Waiting(WaitingCode.VALIDATING_FILES, "Its files are being validated.")
    if state is JobState.PAUSED:
        return Waiting(WaitingCode.PAUSED, "It is paused until somebody resumes it.")
    return _why_queued(needed_bytes, queue) if state is JobState.QUEUED else None


def _why_queued(needed_bytes: int | None, queue: Queue) -> Waiting:
    position = queue.position
    if not queue.living:
        return Waiting(WaitingCode.NO_WORKER, "No train worker is running.", position)
    active = [worker for worker in queue.living if worker.state is WorkerState.ACTIVE]
    if not active:
        return Waiting(WaitingCode.WORKERS_DRAINING, "Every train worker is draining: none takes a job.", position)
    able = [worker for worker in active if fits(needed_bytes, worker.memory_bytes, worker.weight_bits)]
    if not able:
        return _too_large(needed_bytes or 0, active, position)
    if (limit := queue.running_limit) is not None:
        return Waiting(WaitingCode.DEPARTMENT_LIMIT, f"The department runs as many jobs as it may, {limit}.", position)
    if all(worker.busy for worker in able):
        place = "" if position is None else f" It is number {position} in the queue."
        return Waiting(WaitingCode.WORKERS_BUSY, f"Every worker that could take it is at work.{place}", position)
    return Waiting(WaitingCode.STARTING, "A worker is free, and takes the first job of the queue.", position)


def _too_large(needed_bytes: int, active: Sequence[LivingWorker], position: int | None) -> Waiting:
    largest_bytes = max(capacity_bytes(worker.memory_bytes, worker.weight_bits) or 0 for worker in active)
    message = (
        f"It needs at least {needed_bytes / _GIB:.1f} GiB of memory;"
        f" the largest worker has room for {largest_bytes / _GIB:.1f} GiB."
    )
    return Waiting(WaitingCode.NOT_ENOUGH_MEMORY, message, position, needed_bytes, largest_bytes)
