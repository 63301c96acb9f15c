"""A machine whose disk is full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.jobs import JobState


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only an administrator can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_fails_the_job_with_its_reason_and_is_not_tried_again(
    department: Any, fake: Any, small_disk: Path
) -> None:
    (small_disk / "others").write_bytes(b"x" * (1900 << 10))
    job = department.submit_queued()
    assert department.worker(fake(), work_dir=small_disk, cache_dir=small_disk / "cache").run_next()
    failed = department.job(job)
    assert (failed.state, failed.error["code"], failed.epoch) == (JobState.FAILED, "no_space", 1)
    (small_disk / "others").unlink()
    again = department.submit_queued()
    assert department.worker(fake(), work_dir=small_disk, cache_dir=small_disk / "cache").run_next()
    assert department.job(again).state == JobState.SUCCEEDED
    assert [left.name for left in (small_disk / "runs").iterdir()] == [".lock"]
