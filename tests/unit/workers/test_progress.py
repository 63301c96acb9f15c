"""What a run tells, and how much of it reaches the database."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domain.plans import ProgressRecord
from workers.progress import MAX_TRAIN_EVENTS, ProgressFile, ProgressReport, metrics_of


def line(step: int, kind: str = "train", total: int = 1000) -> str:
    record = ProgressRecord(kind=kind, run="a", step=step, total_steps=total, loss=1.5, token_accuracy=0.25)  # type: ignore[arg-type]
    return record.model_dump_json() + "\n"


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    file = ProgressFile(path)
    assert list(file.read_new()) == []
    path.write_text(line(1) + line(2)[:20])
    assert [record.step for record in file.read_new()] == [1]
    path.write_text(line(1) + line(2) + "not a record\n" + line(3))
    assert [record.step for record in file.read_new()] == [2, 3]
    assert list(file.read_new()) == []


def test_a_long_run_makes_a_bounded_number_of_events_and_all_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "workers.progress.leases.record_progress", lambda _session, _held, _newest, events: sent.extend(events)
    )
    total = 12_345
    path = tmp_path / "progress.jsonl"
    path.write_text(
        "".join(line(step, total=total) for step in range(1, total + 1))
        + "".join(line(step, "validation", total) for step in range(1000, total, 1000))
    )
    runtime: Any = SimpleNamespace(department=lambda _department: _Session())
    held: Any = SimpleNamespace(spec=SimpleNamespace(total_steps=total), department=None, job=None)
    report = ProgressReport(runtime, held, path)
    assert report.follow()
    assert not report.follow()
    report.send()

    trained = [event["step"] for event in sent if "train_loss" in event]
    assert len(trained) <= MAX_TRAIN_EVENTS + 1
    assert trained[-1] == total
    assert len([event for event in sent if "valid_loss" in event]) == 12
    assert report.metrics_at(2000) == {
        "step": 2000, "total_steps": total, "train_loss": 1.5, "train_mean_token_accuracy": 0.25,
        "valid_loss": 1.5, "valid_mean_token_accuracy": 0.25,
    }  # fmt: skip
    assert "valid_loss" not in report.metrics_at(2001)


class _Session:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def test_other_records_are_no_metrics() -> None:
    assert metrics_of(ProgressRecord(kind="phase", run="a", step=0, total_steps=3, message="preparing")) is None
