"""What becomes of a job's files before it queues: counted by the real engine in a limited child."""

import threading
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from domain.jobs import JobState
from storage.errors import StorageUnavailable
from workers.base_model_cache import cached_folder, tokenizer_files
from workers.patience import Patience
from workers.sweeper import sweep
from workers.validation import validate


def settled(department: Any, job: Any) -> tuple[str, str | None, str | None]:
    found = department.job(job)
    error = found.error or {}
    return found.state, error.get("code"), error.get("param")


def test_a_row_that_is_too_long_fails_the_job_and_is_named_by_its_line(department: Any) -> None:
    rows = department.rows(3)
    rows[1]["messages"][0]["content"] = "long " * 400
    job = department.submit(training_file=department.upload(rows))
    validate(department.runtime, job)
    assert settled(department, job) == (JobState.FAILED, "row_too_long", "training_file:2")


def test_a_job_of_too_many_tokens_is_refused(department: Any) -> None:
    job = department.submit()
    runtime = department.runtime
    validate(replace(runtime, settings=runtime.settings.model_copy(update={"max_training_tokens": 10})), job)
    assert settled(department, job) == (JobState.FAILED, "job_too_large", "training_file")


def test_a_child_that_dies_twice_fails_the_job(department: Any, fake: Any) -> None:
    job = department.submit()
    validate(department.runtime, job, fake("abort"))
    assert settled(department, job) == (JobState.FAILED, "inspection_failed", None)


def test_a_job_waits_while_storage_is_away_and_is_rung_for_again(department: Any, fake: Any) -> None:
    job = department.submit()
    runtime = department.runtime
    with pytest.raises(StorageUnavailable):
        validate(replace(runtime, objects=Away()), job)
    assert settled(department, job)[0] == JobState.VALIDATING_FILES
    validate(runtime, job, fake())
    assert settled(department, job)[0] == JobState.QUEUED
    # A second delivery finds nothing to do, and nor does a message about no job.
    validate(runtime, job)
    validate(runtime, uuid4())


class Away:
    def fetch(self, *_: object) -> None:
        raise StorageUnavailable("away")


def test_three_sweepers_at_once_ring_once_for_each_job(department: Any, wait_for: Any) -> None:
    jobs = [department.submit_queued() for _ in range(5)]
    runtime = replace(
        department.runtime, settings=department.runtime.settings.model_copy(update={"nudge_after_s": 0.2})
    )
    department.flush_broker()
    wait_for(lambda: department.waits_unrung(jobs, 0.2), within_s=5, what="the jobs wait unrung")
    sweepers = [threading.Thread(target=sweep, args=(runtime,)) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    assert department.queue_length("train") == 5


def test_workers_that_need_a_base_model_at_once_fetch_it_once(department: Any) -> None:
    runtime, fetched = department.runtime, []
    manifest = department.base_model()

    class Counting:
        def fetch(self, *arguments: Any) -> None:
            fetched.append(arguments[0])
            runtime.objects.fetch(*arguments)

    def fetch() -> None:
        cached_folder(runtime.settings.cache_dir, manifest, Counting(), Patience(threading.Event().wait))  # type: ignore[arg-type]

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == len(manifest.files)
    assert not any(file.path.endswith(".safetensors") for file in tokenizer_files(manifest).files)
