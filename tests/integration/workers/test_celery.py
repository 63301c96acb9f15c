"""Workers under Celery, as they are deployed; the first test with the real engine on two ranks."""

import signal
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from domain.digests import digest_of
from domain.jobs import JobState
from runtime.queue import TRAIN_QUEUE, TRAIN_TASK, VALIDATE_TASK
from storage.keys import Key

TWO_RANKS = pytest.mark.parametrize("settings", [{"ranks": 2}], indirect=True)


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def environments(process: psutil.Process, up_to: int) -> dict[int, bytes]:
    """What can be read of the environments of a process and its ancestors, up to the worker."""
    found: dict[int, bytes] = {}
    for ancestor in (process, *process.parents()):
        found[ancestor.pid] = Path(f"/proc/{ancestor.pid}/environ").read_bytes()
        if ancestor.pid == up_to:
            break
    return found


@TWO_RANKS
def test_a_worker_asked_to_go_leaves_a_checkpoint_and_another_goes_on(
    department: Any, start: Any, wait_for: Any, engines: Any
) -> None:
    job = department.submit_queued(steps=3000, checkpoint_every=3000)
    worker = start("-m", "workers.main", "train")
    wait_for(lambda: (department.job(job).progress or {}).get("loss"), within_s=120, what="training has begun")
    # torchrun and two ranks.
    assert len(engines()) == 3
    seen = environments(engines()[-1], up_to=worker.pid)
    assert worker.pid in seen
    settings = department.runtime.settings
    for secret in (settings.database_url, settings.broker_url, settings.s3_access_key, settings.s3_secret_key):
        assert not [pid for pid, environ in seen.items() if secret.get_secret_value().encode() in environ]

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=30) == 0
    assert not engines()
    (checkpoint,) = department.checkpoints(job)
    left = department.job(job)
    assert (left.state, left.stalls, left.lease_id) == (JobState.QUEUED, 0, None)
    assert len(department.audited("job.released")) == 1

    second = start("-m", "workers.main", "train")
    wait_for(lambda: (department.job(job).progress or {}).get("step", 0) > checkpoint.step + 5, within_s=60,
             what="another worker goes on")  # fmt: skip
    assert department.audited("job.claimed")[-1].details["resume_step"] == checkpoint.step
    second.kill()
    wait_for(lambda: not engines(), within_s=5, what="torchrun and its ranks die with their worker")


def test_jobs_run_though_every_message_is_lost(department: Any, start: Any, wait_for: Any) -> None:
    validating = department.submit()
    queued = [department.submit_queued() for _ in range(8)]
    department.flush_broker()
    start("celery", "validate")
    start("celery", "sweep")
    start("celery", "train")
    start("-m", "workers.main", "beat")
    jobs = [validating, *queued]
    wait_for(
        lambda: all(state_of(department, job) == JobState.SUCCEEDED for job in jobs), within_s=90, what="all jobs run"
    )
    assert [len(department.versions(job)) for job in jobs] == [1] * 9


def test_a_message_delivered_twenty_times_runs_its_job_once_and_a_bad_one_harms_nobody(
    department: Any, start: Any, wait_for: Any
) -> None:
    job, queue = department.submit_queued(), department.runtime.queue
    for bad in ("no-uuid", str(uuid4())):
        queue.send_task(VALIDATE_TASK, args=[bad], queue=TRAIN_QUEUE)
    queue.send_task("tsugiki.unknown", args=[], queue=TRAIN_QUEUE)
    queue.send_task(TRAIN_TASK, args=[1, 2, 3], queue=TRAIN_QUEUE)
    for _ in range(20):
        queue.send_task(TRAIN_TASK, args=[str(job)], queue=TRAIN_QUEUE)
    workers = [start("celery", "train", "slow") for _ in range(2)]
    wait_for(lambda: state_of(department, job) == JobState.SUCCEEDED, within_s=60, what="the job runs")
    wait_for(lambda: department.queue_length(TRAIN_QUEUE) == 0, within_s=20, what="the other messages are spent")

    assert [worker.poll() for worker in workers] == [None, None]
    assert (department.job(job).epoch, len(department.versions(job))) == (1, 1)


def test_a_worker_asked_twice_goes_at_once(department: Any, start: Any, wait_for: Any, engines: Any) -> None:
    job = department.submit_queued()
    worker = start("celery", "train", "mute")
    runs = department.runtime.settings.work_dir / "runs"
    wait_for(lambda: list(runs.glob("*/train/engine.log")), within_s=60, what="the engine starts to train")
    # It never hears of the order to stop.
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(timeout=3) == 1
    wait_for(lambda: not engines(), within_s=5, what="the engine dies with its worker")
    assert state_of(department, job) == JobState.RUNNING


@pytest.mark.parametrize("settings", [{"orphan_after_s": 0}], indirect=True, ids=["at once"])
def test_the_sweep_worker_looks_after_storage(department: Any, start: Any, wait_for: Any) -> None:
    content = b"stored, and never entered"
    orphan = Key.blob(department.id, digest_of(content))
    department.runtime.objects.put(orphan, BytesIO(content), digest_of(content), len(content))
    start("celery", "sweep")
    start("-m", "workers.main", "beat")
    wait_for(lambda: department.audited("storage.orphans_erased"), within_s=60, what="the orphan is announced")
    wait_for(lambda: department.runtime.objects.list_page(department.id).objects == (), within_s=10, what="it is gone")
