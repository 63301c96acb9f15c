"""`tsugiki up`: one foreground command that starts everything, keeps its data, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RunningService, start_service, stop_service

TSUGIKI = str(Path(sys.executable).with_name("tsugiki"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def running(directory: Path) -> Iterator[RunningService]:
    service = start_service(directory)
    yield service
    service.process.kill()
    service.process.wait()


def descendants(root: int) -> set[int]:
    """Every living process below one, by the kernel's own word for who started whom."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), set()).add(int(stat.parent.name))
    found, waiting = set(), [root]
    while waiting:
        for child in children.get(waiting.pop(), set()):
            found.add(child)
            waiting.append(child)
    return found


def alive(processes: set[int]) -> set[int]:
    """Those that still run; a zombie that nobody collects yet does not."""
    running = set()
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            running.add(process)
    return running


def wait_until_gone(processes: set[int], timeout_s: float) -> set[int]:
    deadline = time.monotonic() + timeout_s
    while (left := alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_data_survive_a_restart_on_the_same_directory(running: RunningService) -> None:
    with running.http(running.admin_key) as http:
        created = http.post("/organization/projects", json={"name": "kept"}).raise_for_status().json()
    assert stop_service(running) == 0
    assert not (running.directory / "endpoint.json").exists()

    again = start_service(running.directory)
    try:
        assert (again.admin_key, again.auditor_key) == (running.admin_key, running.auditor_key)
        with again.http(again.admin_key) as http:
            assert http.get(f"/organization/projects/{created['id']}").raise_for_status().json()["name"] == "kept"
    finally:
        assert stop_service(again) == 0


def test_a_second_start_on_a_directory_in_use_is_refused_and_harms_nothing(running: RunningService) -> None:
    command = [TSUGIKI, "up", "--dir", str(running.directory), "--port", "0"]
    second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert "already runs services" in second.stderr
    assert str(running.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    with running.http(running.admin_key) as http:
        assert http.get("/me").is_success


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_every_process_within_15_s(running: RunningService, number: signal.Signals) -> None:
    below = descendants(running.process.pid)
    assert len(below) >= 6  # PostgreSQL, Valkey, SeaweedFS, API, two workers, beat
    started = time.monotonic()
    running.process.send_signal(number)
    assert running.process.wait(timeout=20) == 0
    assert time.monotonic() - started < 15
    assert wait_until_gone(below, timeout_s=1) == set()


def test_a_kill_leaves_no_process_behind(running: RunningService) -> None:
    below = descendants(running.process.pid)
    assert len(below) >= 6
    running.process.kill()
    running.process.wait()
    assert wait_until_gone(below, timeout_s=10) == set()


def test_the_endpoint_file_has_what_a_client_needs(running: RunningService) -> None:
    said = json.loads((running.directory / "endpoint.json").read_text())
    assert set(said) == {"base_url", "admin_key", "auditor_key"}
    assert said["base_url"].endswith("/v1")
    shown = subprocess.run(
        [TSUGIKI, "--json", "whoami"],
        env=os.environ | {"TSUGIKI_BASE_URL": said["base_url"], "TSUGIKI_API_KEY": said["auditor_key"]},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(shown.stdout)["roles"] == ["auditor"]
