"""A machine whose clock is wrong, or whose disk is full."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from domain.jobs import JobState
from workers.sweeper import sweep

HERE = Path(__file__).parent
HOUR_S = 3600
EXPIRES_AT = text("SELECT expires_at, extract(epoch FROM expires_at - clock_timestamp()) AS left_s FROM leases")
OFF_S = text("SELECT max(abs(extract(epoch FROM occurred_at - clock_timestamp()))) FROM audit_events")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("another clock for a process needs a compiler")
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HERE / "shifted_clock.c", "-ldl"], check=True)
    return library


@pytest.mark.parametrize("shifted_s", [HOUR_S, -HOUR_S])
def test_a_worker_whose_clock_is_an_hour_off_holds_leases_by_the_databases(
    department: Any, start: Any, wait_for: Any, shim: Path, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    shifted_s: int,
) -> None:  # fmt: skip
    job = department.submit_queued()
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("SHIFTED_S", str(shifted_s))
    # Stores refuse what is signed at the wrong time: it holds the job and asks again.
    start("slow")
    monkeypatch.delenv("LD_PRELOAD")
    wait_for(lambda: department.job(job).state == JobState.RUNNING, within_s=60, what="it is claimed")
    lease_s = department.runtime.settings.lease_s
    with department.runtime.department(department.id) as session:
        first = session.execute(EXPIRES_AT).one()
        assert 0 < first.left_s <= lease_s

    def renewed() -> bool:
        sweep(department.runtime)
        with department.runtime.department(department.id) as session:
            now = session.execute(EXPIRES_AT).one()
        return now.expires_at > first.expires_at + timedelta(seconds=lease_s)

    wait_for(renewed, within_s=60, what="a lease's time goes by")
    assert (department.job(job).state, department.job(job).epoch) == (JobState.RUNNING, 1)
    with department.runtime.department(department.id) as session:
        assert session.execute(OFF_S).scalar_one() < HOUR_S / 2
    # The control: by its own clock, which its log tells, it was another time.
    (told,) = re.findall(
        r"^(\S+)\.\d+Z INFO \S+ job \S+: claimed", (tmp_path / "workers.log").read_text(), re.MULTILINE
    )
    off_s = (datetime.fromisoformat(told).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    assert abs(off_s - shifted_s) < HOUR_S / 2


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
