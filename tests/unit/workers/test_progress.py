"""What a run tells, and how much of it reaches the database."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from domain.plans import ProgressRecord
from workers.progress import MAX_TRAIN_EVENTS, ProgressFile, ProgressReport, metrics_of, progress_of


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


FIGURES = {
    "step": 4, "total_steps": 9, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 400, "tokens_per_s": 100.0,
    "step_s": 1.25, "mfu": 0.4, "padding_ratio": 1.02, "memory_bytes": 2**30, "eta_s": 6.25,
}  # fmt: skip


def record(kind: str, **fields: object) -> ProgressRecord:
    return ProgressRecord.model_validate({"run": "a", "step": 4, "total_steps": 9, "kind": kind} | fields)


def test_a_steps_figures_go_by_the_clients_names_in_events_and_by_plain_ones_in_progress() -> None:
    step = record("train", **FIGURES, loss=1.5, token_accuracy=0.25)
    assert metrics_of(step) == FIGURES | {"train_loss": 1.5, "train_mean_token_accuracy": 0.25}
    assert progress_of(step) == FIGURES | {"loss": 1.5, "token_accuracy": 0.25}


def test_a_validation_stands_beside_the_step_before_it() -> None:
    validated = record("validation", loss=1.25, token_accuracy=0.5)
    assert metrics_of(validated) == {"step": 4, "total_steps": 9, "valid_loss": 1.25, "valid_mean_token_accuracy": 0.5}
    assert progress_of(validated) == {"validation_loss": 1.25, "validation_token_accuracy": 0.5}


def test_what_was_not_measured_is_left_out() -> None:
    assert metrics_of(record("train", loss=1.5)) == {"step": 4, "total_steps": 9, "train_loss": 1.5}


def test_an_estimate_of_memory_is_no_phase_of_its_own() -> None:
    assert progress_of(record("phase", message="training")) == {"step": 4, "total_steps": 9, "phase": "training"}
    assert progress_of(record("phase", message="fits", memory_bytes=1)) == {}


def test_other_records_are_no_metrics() -> None:
    assert metrics_of(ProgressRecord(kind="phase", run="a", step=0, total_steps=3, message="preparing")) is None
