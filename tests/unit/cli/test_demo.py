import fcntl
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli import demo_plot, demo_report
from cli.demo import Demo, main
from cli.demo_report import DepartmentResult
from cli.demo_service import MARKER, DemoFailed, started

RESULT = DepartmentResult(
    name="clinical-coding", model="ft:base:org:icd:1", job_id="ftjob-1", base_accuracy=0.17, adapter_accuracy=0.91,
    gain=0.74, evaluation_rows=100, labels=10, losses=((1, 10.0), (2, 0.3)),
    first_loss=10.0, final_loss=0.3, validation_loss=0.1, train_s=171.0,
    evaluation_s=20.0, tokens_per_s=335.6, adapter_bytes=9_823_625, base_model_bytes=272_584_931,
    trainable_parameters=2_442_240, total_parameters=136_957_248,
)  # fmt: skip


def fake_service(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A `tsugiki` beside the interpreter that does what the script says; $3 is the data directory."""
    (folder / "bin").mkdir()
    executable = folder / "bin" / "tsugiki"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))


READY = """
printf '{"base_url": "http://127.0.0.1:1/v1", "admin_key": "tsk_o", "auditor_key": "tsk_a"}' > "$3/part"
trap 'touch "$3/stopped"; exit 0' TERM
mv "$3/part" "$3/endpoint.json"
while :; do sleep 0.05; done
"""


def test_a_service_that_does_not_start_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_service(tmp_path, monkeypatch, "echo the disk is full; exit 3")
    with pytest.raises(DemoFailed, match=r"status 3.\nthe disk is full"), started(tmp_path / "demo"):
        pass


def test_the_service_is_ended_when_the_demonstration_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_service(tmp_path, monkeypatch, READY)
    with pytest.raises(KeyboardInterrupt), started(tmp_path / "demo") as service:
        raise KeyboardInterrupt
    assert service.endpoint.auditor_key == "tsk_a"
    assert service.process.returncode == 0
    assert (tmp_path / "demo" / "stopped").exists()


def test_a_service_to_be_kept_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_service(tmp_path, monkeypatch, READY)
    with started(tmp_path / "demo") as service:
        service.keep = True
    assert service.process.poll() is None
    service.process.terminate()
    assert service.process.wait(timeout=10) == 0


def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(DemoFailed, match="no earlier demonstration's"), started(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_an_earlier_demonstrations_folder_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_service(tmp_path, monkeypatch, READY)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / MARKER).touch()
    (tmp_path / "demo" / "endpoint.json").write_text("{}")
    with started(tmp_path / "demo") as service:
        assert service.endpoint.api_key == "tsk_o"


def test_a_demonstration_that_still_runs_is_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    with (tmp_path / "lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DemoFailed, match="kill 4711"), started(tmp_path):
            pass
    assert (tmp_path / MARKER).exists()


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").touch()
    monkeypatch.setattr("cli.demo.MODEL_FOLDER", tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["--dir", str(tmp_path / "afile" / "demo")]) == 1
    # A terminal breaks the line where the folder's name is long.
    told = " ".join(capsys.readouterr().out.split())
    assert "The demonstration failed: " in told
    assert "Traceback" not in told


def test_too_small_a_gain_fails_the_demonstration() -> None:
    demo = Demo(Console())
    demo._check_gains((RESULT,))  # noqa: SLF001 - the whole takes ten minutes
    with pytest.raises(DemoFailed, match=r"gained 0\.29"):
        demo._check_gains((RESULT.model_copy(update={"gain": 0.29}),))  # noqa: SLF001


def test_the_result_can_be_pasted_as_markdown() -> None:
    heading, line, row = demo_report.markdown((RESULT,)).splitlines()
    assert heading.count("|") == line.count("|") == row.count("|") == 7
    assert row == (
        "| clinical-coding | 17.0% → 91.0% | 2 min 51 s | 336 | 9.8 MB / 272.6 MB | 2.44 M of 137.0 M (1.8%) |"
    )


REPORT = demo_report.DemoReport(
    departments=(RESULT,), hardware=demo_report.hardware(), versions={"torch": "2"}, seconds_total=1.0
)


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    demo_report.write(REPORT, tmp_path / "demo-report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["demo-report.json"]
    read = demo_report.DemoReport.model_validate_json((tmp_path / "demo-report.json").read_bytes())
    assert read == REPORT


def test_a_report_is_drawn_as_a_curve_and_two_bars_a_department(tmp_path: Path) -> None:
    demo_plot.plot(REPORT, tmp_path / "demo-report.svg")
    drawn = (tmp_path / "demo-report.svg").read_text()
    for said in ("clinical-coding", "17%", "91%", "optimiser step", "base model", "with adapter"):
        assert f"<!-- {said} -->" in drawn
