"""Measured processes are watched from outside, whole tree, and end with the measurement."""

from pathlib import Path

import psutil
import pytest

from benchmarks.contract import await_reports
from benchmarks.process import Measured, MeasurementFailed, python

HELD_BYTES = 200_000_000
CHILD = "import time; held = b'x' * {bytes}; time.sleep(1)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"


def peak_bytes(folder: Path, held_bytes: int) -> int:
    command = python("-c", PARENT.format(child=CHILD.format(bytes=held_bytes)))
    with Measured(command, folder, {}) as process:
        return process.wait().peak_bytes


def test_memory_of_children_counts(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path / "holding", HELD_BYTES) > HELD_BYTES
    # The control: without what the child holds.
    assert peak_bytes(tmp_path / "bare", 0) < HELD_BYTES


def test_a_process_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with (
        Measured(python("-c", "raise SystemExit('no such model')"), tmp_path, {}) as process,
        pytest.raises(MeasurementFailed, match="no such model"),
    ):
        process.wait()


def test_a_process_nobody_waited_for_does_not_stay(tmp_path: Path) -> None:
    with Measured(python("-c", "import time; time.sleep(600)"), tmp_path, {}) as process:
        assert process.running
        (child,) = [each for each in psutil.Process().children() if "time.sleep(600)" in " ".join(each.cmdline())]
    assert not child.is_running()


def test_a_run_without_a_report_is_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "report.json").touch()
    with Measured(python("-c", ""), tmp_path / "log", {}) as process:
        assert len(await_reports(process, [tmp_path / "done"], began=0.0)) == 1
        with pytest.raises(MeasurementFailed, match="lost"):
            await_reports(process, [tmp_path / "done", tmp_path / "lost"], began=0.0)
        process.wait()
