"""Children are restarted a bounded number of times, stopped in bounded time, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import processes
from runtime.processes import ChildEnded, ChildProcess, ProcessGroup

ROOT = Path(__file__).resolve().parent.parent.parent
STUBBORN = 'trap "" TERM; echo ready; while :; do sleep 1; done'


def _child(tmp_path: Path, name: str, script: str, *, restarts: int = 0, may_end: bool = False) -> ChildProcess:
    return ChildProcess(
        name=name,
        argv=["sh", "-c", script],
        log=tmp_path / f"{name}.log",
        env={"PATH": os.environ["PATH"]},
        restarts=restarts,
        may_end=may_end,
    )


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _exists(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def no_wait_before_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BACKOFF_S", (0.01,))


def test_a_group_ends_when_a_child_has_no_restart_left(tmp_path: Path) -> None:
    failing = _child(tmp_path, "worker", "echo out of luck; exit 3", restarts=2)
    steady = _child(tmp_path, "api", "exec sleep 60")
    with pytest.raises(ChildEnded, match=r"(?s)worker ended with status 3, after 2 restarts.*out of luck"):
        ProcessGroup([failing, steady]).run()
    assert failing.log.read_text().count("out of luck") == 3
    assert not _exists(steady.pid)
    assert steady.reap() == -signal.SIGTERM


def test_a_group_returns_after_sigterm_and_gives_the_signal_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    children = [_child(tmp_path, "api", "exec sleep 60"), _child(tmp_path, "beat", "kill -TERM $PPID; exec sleep 60")]
    ProcessGroup(children).run()
    assert [child.reap() for child in children] == [-signal.SIGTERM, -signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_may_end_is_not_started_again(tmp_path: Path) -> None:
    retiring = _child(tmp_path, "worker", "echo started", restarts=1, may_end=True)
    stopping = _child(tmp_path, "beat", "sleep 0.5; kill -TERM $PPID; exec sleep 60")
    ProcessGroup([retiring, stopping]).run()
    assert retiring.log.read_text() == "started\n"


def test_a_child_that_may_end_may_not_fail(tmp_path: Path) -> None:
    failing = _child(tmp_path, "worker", "echo started; exit 3", restarts=1, may_end=True)
    with pytest.raises(ChildEnded, match="worker ended with status 3"):
        ProcessGroup([failing]).run()
    assert failing.log.read_text().count("started") == 2


def test_a_stop_does_not_wait_for_a_planned_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BACKOFF_S", (3600.0,))
    failing = _child(tmp_path, "worker", "exit 1", restarts=1)
    stopping = _child(tmp_path, "beat", "sleep 0.2; kill -INT $PPID; exec sleep 60")
    started = time.monotonic()
    ProcessGroup([failing, stopping]).run()
    assert time.monotonic() - started < 5


def test_a_child_that_ignores_the_stop_is_killed_with_its_own_children(tmp_path: Path) -> None:
    child = _child(tmp_path, "stubborn", f"sleep 60 & echo $!; {STUBBORN}")
    child.start()
    _await(lambda: "ready" in child.log.read_text())
    grandchild = int(child.log.read_text().split()[0])
    started = time.monotonic()
    assert child.stop(timeout_s=0.3) == -signal.SIGKILL
    assert time.monotonic() - started < 3
    assert not _exists(child.pid)
    _await(lambda: not _exists(grandchild))


def test_what_an_ended_child_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    child = _child(tmp_path, "leader", "sleep 60 & echo $!")
    child.start()
    assert child.ended(within_s=5)
    left_behind = int(child.log.read_text())
    assert child.reap() == 0
    _await(lambda: not _exists(left_behind))


def test_a_group_does_not_go_on_without_a_watched_process(tmp_path: Path) -> None:
    server = _child(tmp_path, "postgres", "echo no more connections; exit 1")
    api = _child(tmp_path, "api", "exec sleep 60")
    server.start()
    with pytest.raises(ChildEnded, match=r"(?s)postgres ended.*no more connections"):
        ProcessGroup([api], watched=[server]).run()
    assert server.reap() == 1
    assert api.reap() == -signal.SIGTERM


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    parent_code = """
import os, sys
from pathlib import Path
from runtime.processes import ChildProcess
child = ChildProcess(name="child", argv=["sleep", "60"], log=Path(sys.argv[1]), env={"PATH": os.environ["PATH"]})
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", parent_code, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        # The program itself, past setpriv and sh, has the death signal set.
        _await(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep\0"))
        parent.kill()
        parent.wait()
        _await(lambda: not _exists(child))


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_MAX_LOG_BYTES", 10)
    child = _child(tmp_path, "worker", "echo more than ten bytes")
    for _ in range(2):
        child.start()
        child.ended(within_s=5)
        child.reap()
    assert child.log.read_text() == (tmp_path / "worker.log.1").read_text() == "more than ten bytes\n"
