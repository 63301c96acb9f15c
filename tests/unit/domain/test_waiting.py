import pytest

from domain.jobs import TERMINAL, JobState
from domain.waiting import LivingWorker, Queue, WaitingCode, why
from domain.workers import WorkerState

GIB = 1 << 30
FREE = LivingWorker(WorkerState.ACTIVE, memory_bytes=8 * GIB, weight_bits=16, busy=False)
BUSY = LivingWorker(WorkerState.ACTIVE, memory_bytes=8 * GIB, weight_bits=16, busy=True)
LARGE_BUSY = LivingWorker(WorkerState.ACTIVE, memory_bytes=80 * GIB, weight_bits=16, busy=True)
DRAINING = LivingWorker(WorkerState.DRAINING, memory_bytes=80 * GIB, weight_bits=16, busy=False)
UNKNOWN = LivingWorker(WorkerState.ACTIVE, memory_bytes=None, weight_bits=16, busy=True)


@pytest.mark.parametrize(
    ("needed_gib", "living", "code"),
    [
        (1, [], WaitingCode.NO_WORKER),
        (1, [DRAINING], WaitingCode.WORKERS_DRAINING),
        # A drained worker's memory is nobody's.
        (20, [DRAINING, FREE], WaitingCode.NOT_ENOUGH_MEMORY),
        (20, [FREE, LARGE_BUSY], WaitingCode.WORKERS_BUSY),
        (20, [FREE, UNKNOWN], WaitingCode.WORKERS_BUSY),
        (8, [BUSY], WaitingCode.WORKERS_BUSY),
        (8, [BUSY, FREE], WaitingCode.STARTING),
        (None, [BUSY, FREE], WaitingCode.STARTING),
    ],
)
def test_the_first_reason_that_holds_is_told(
    needed_gib: int | None, living: list[LivingWorker], code: WaitingCode
) -> None:
    found = why(JobState.QUEUED, needed_gib and needed_gib * GIB, Queue(living, position=3))
    assert found
    assert (found.code, found.position) == (code, 3)
    assert ("number 3" in found.message) == (code is WaitingCode.WORKERS_BUSY)


@pytest.mark.parametrize(
    ("living", "code"),
    [([], WaitingCode.NO_WORKER), ([BUSY], WaitingCode.DEPARTMENT_LIMIT), ([FREE], WaitingCode.DEPARTMENT_LIMIT)],
)
def test_a_department_at_its_limit_waits_for_itself(living: list[LivingWorker], code: WaitingCode) -> None:
    found = why(JobState.QUEUED, 1, Queue(living, running_limit=2))
    assert found
    assert found.code == code
    assert (", 2." in found.message) == (code is WaitingCode.DEPARTMENT_LIMIT)


def test_too_little_memory_is_told_with_both_numbers() -> None:
    found = why(JobState.QUEUED, 20 * GIB, Queue([FREE, BUSY]))
    assert found
    assert (found.needed_bytes, found.largest_bytes) == (20 * GIB, 8 * GIB)
    assert "20.0 GiB" in found.message
    assert "8.0 GiB" in found.message


def test_a_job_waits_while_it_is_validated_and_while_it_is_paused() -> None:
    reasons = {state: why(state, None, Queue([FREE], position=1)) for state in JobState}
    told = {state: reason.code for state, reason in reasons.items() if reason}
    assert told == {
        JobState.VALIDATING_FILES: WaitingCode.VALIDATING_FILES,
        JobState.QUEUED: WaitingCode.STARTING,
        JobState.PAUSED: WaitingCode.PAUSED,
    }
    assert not TERMINAL & set(told)
