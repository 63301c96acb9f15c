"""Whole runs of a tiny base model in this process. Several ranks are in tests/distributed."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.plans import ControlRecord, FailureKind, Precision, RunFailure, RunPlan, RunReport, RunStopped, TrainPlan
from domain.runs import LoraMethod, RunSpec
from engine import optimiser, run, schedule
from engine.checkpoints import COMPLETE
from engine.distributed import Ranks
from engine.train import Training
from tests.tiny_engine import NO_DIGEST, tiny_plan, tiny_rows, tiny_spec, write_rows

DROPOUT = LoraMethod(lora_rank=4, dropout=0.2)


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def inputs(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    # 10 rows in batches of 4: every third batch is ragged.
    write_rows(folder / "run" / "train.jsonl", tiny_rows(10))
    (folder / "base_model").symlink_to(tiny_folder)
    return folder


def train(plan: TrainPlan, inputs: Path, out: Path, one_rank: Ranks) -> int:
    out.mkdir(exist_ok=True)
    return Training(plan, inputs, out, one_rank).run_all()


def adapter_bytes(out: Path) -> bytes:
    return (out / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


def failure(out: Path, name: str = "run") -> RunFailure:
    return RunFailure.model_validate_json((out / name / "failure.json").read_bytes())


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (out / "run" / "progress.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def test_a_run_reports_what_it_did(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    write_rows(inputs / "run" / "validation.jsonl", tiny_rows(5))
    spec = tiny_spec(total_steps=30, validate_every_steps=10)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"validation": NO_DIGEST})})
    assert train(tiny_plan(spec), inputs, tmp_path / "out", one_rank) == 0
    report = RunReport.model_validate_json((tmp_path / "out" / "run" / "report.json").read_bytes())
    steps, validations = lines(tmp_path / "out", "train"), lines(tmp_path / "out", "validation")
    assert [record["step"] for record in steps] == list(range(1, 31))
    assert [record["step"] for record in validations] == [10, 20, 30]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert report.validation_loss == validations[-1]["loss"] < validations[0]["loss"]
    assert report.trained_tokens == steps[-1]["trained_tokens"]
    # Three steps are an epoch.
    assert report.trained_tokens == 10 * steps[2]["trained_tokens"]
    assert report.final_train_loss == steps[-1]["loss"]


def test_the_same_plan_gives_the_same_bytes_and_losses(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    for name in ("a", "b"):
        train(tiny_plan(tiny_spec(total_steps=5, method=DROPOUT)), inputs, tmp_path / name, one_rank)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")
    a, b = ([record["loss"] for record in lines(tmp_path / name, "train")] for name in ("a", "b"))
    assert a == b


def interrupted(inputs: Path, tmp_path: Path, one_rank: Ranks, *, spec: RunSpec, precision: Precision) -> bytes:
    """Train to the checkpoint of step 4, then resume from it in a fresh Training; the adapter's bytes."""
    train(tiny_plan(spec, precision=precision), inputs, tmp_path / "first", one_rank)
    shutil.copytree(tmp_path / "first" / "run" / "checkpoints" / "step-000004", inputs / "run" / "checkpoint")
    plan = tiny_plan(spec, precision=precision, resume_step=4)
    assert train(plan, inputs, tmp_path / "second", one_rank) == 0
    return adapter_bytes(tmp_path / "second")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_resumed_run_ends_in_the_same_bytes(
    precision: Precision, inputs: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    spec = tiny_spec(total_steps=7, checkpoint_every_steps=4, method=DROPOUT)
    resumed = interrupted(inputs, tmp_path, one_rank, spec=spec, precision=precision)
    assert resumed == adapter_bytes(tmp_path / "first")
    first, second = (lines(tmp_path / name, "train") for name in ("first", "second"))
    same = ("step", "loss", "grad_norm", "learning_rate", "trained_tokens")
    assert [[record[key] for key in same] for record in second] == [[r[key] for key in same] for r in first[4:]]


@pytest.mark.parametrize(
    "left_out",
    [
        (optimiser.AdamW, "load", lambda *_: None),
        (run, "derive_seed", lambda seed, step: seed * 1000 + step % 4),
        (schedule, "rows_of_step", lambda step, rows, **_: [(step * 4 + place) % rows for place in range(4)]),
    ],
    ids=["optimiser", "dropout", "order"],
)
def test_leaving_out_any_part_of_the_state_would_show(
    left_out: tuple[Any, str, Any], inputs: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    spec = tiny_spec(total_steps=7, checkpoint_every_steps=4, method=DROPOUT)
    train(tiny_plan(spec), inputs, tmp_path / "whole", one_rank)
    with pytest.MonkeyPatch.context() as patch:
        train(tiny_plan(spec), inputs, tmp_path / "first", one_rank)
        shutil.copytree(tmp_path / "first" / "run" / "checkpoints" / "step-000004", inputs / "run" / "checkpoint")
        patch.setattr(*left_out)
        train(tiny_plan(spec, resume_step=4), inputs, tmp_path / "second", one_rank)
    assert adapter_bytes(tmp_path / "second") != adapter_bytes(tmp_path / "whole")


def damage(checkpoint: Path, kind: str) -> None:
    if kind == "no COMPLETE":
        (checkpoint / COMPLETE).unlink()
    elif kind == "flipped bit":
        content = bytearray((checkpoint / "optimiser.safetensors").read_bytes())
        content[-1] ^= 1
        (checkpoint / "optimiser.safetensors").write_bytes(content)
    elif kind == "further file":
        (checkpoint / "extra.json").write_text("{}")


@pytest.mark.parametrize("kind", ["no COMPLETE", "flipped bit", "further file", "other spec", "other compute"])
def test_a_checkpoint_that_is_not_this_runs_or_not_whole_is_refused(
    kind: str, inputs: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    spec = tiny_spec(total_steps=6, checkpoint_every_steps=4)
    train(tiny_plan(spec), inputs, tmp_path / "first", one_rank)
    shutil.copytree(tmp_path / "first" / "run" / "checkpoints" / "step-000004", inputs / "run" / "checkpoint")
    damage(inputs / "run" / "checkpoint", kind)
    changed = spec.model_copy(update={"seed": 8}) if kind == "other spec" else spec
    precision = Precision.BF16 if kind == "other compute" else Precision.FP32
    assert train(tiny_plan(changed, precision=precision, resume_step=4), inputs, tmp_path / "second", one_rank) == 0
    assert failure(tmp_path / "second").kind is FailureKind.BAD_CHECKPOINT


def test_the_latest_two_checkpoints_are_kept(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    train(tiny_plan(tiny_spec(total_steps=9, checkpoint_every_steps=2)), inputs, tmp_path / "out", one_rank)
    kept = sorted(path.name for path in (tmp_path / "out" / "run" / "checkpoints").iterdir())
    assert kept == ["step-000006", "step-000008"]
    assert [record["step"] for record in lines(tmp_path / "out", "checkpoint")] == [2, 4, 6, 8]


def test_a_run_told_to_stop_before_it_began_leaves_its_batch_mate_alone(
    inputs: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    shutil.copytree(inputs / "run", inputs / "mate")
    (tmp_path / "out").mkdir()
    order = ControlRecord(op="stop", run="run").model_dump_json()
    (tmp_path / "out" / "control.jsonl").write_text(f"{order}\nnot a record\n{order[:10]}")
    one = tiny_plan(tiny_spec(total_steps=2))
    mate = RunPlan(run="mate", spec=one.runs[0].spec)
    train(one.model_copy(update={"runs": (one.runs[0], mate)}), inputs, tmp_path / "out", one_rank)
    stopped = RunStopped.model_validate_json((tmp_path / "out" / "run" / "stopped.json").read_bytes())
    assert stopped.step == 0
    assert not (tmp_path / "out" / "run" / "report.json").exists()
    assert (tmp_path / "out" / "mate" / "report.json").exists()


def test_a_failed_run_says_why_and_the_next_goes_on(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    bad = tiny_rows(2)
    bad[1]["messages"][1]["weight"] = 0
    write_rows(inputs / "bad" / "train.jsonl", bad)
    plan = tiny_plan(tiny_spec(total_steps=2))
    failing = RunPlan(run="bad", spec=plan.runs[0].spec)
    assert train(plan.model_copy(update={"runs": (failing, *plan.runs)}), inputs, tmp_path / "out", one_rank) == 0
    assert failure(tmp_path / "out", "bad").kind is FailureKind.BAD_DATA
    assert "line 2" in failure(tmp_path / "out", "bad").message
    assert (tmp_path / "out" / "run" / "report.json").exists()


def test_an_exploding_loss_is_named_with_its_step(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    spec = tiny_spec(total_steps=50, method=LoraMethod(lora_rank=4, alpha=4096.0))
    optimiser = spec.optimiser.model_copy(update={"learning_rate": 1.0, "clip_norm": 0.0})
    plan = tiny_plan(spec.model_copy(update={"optimiser": optimiser}), precision=Precision.FP32)
    with pytest.MonkeyPatch.context() as patch:
        # Random weights of this size do not overflow by themselves.
        patch.setattr(run, "learning_rate_at", lambda step, *_: 1e30 if step == 2 else 1e-3)
        train(plan, inputs, tmp_path / "out", one_rank)
    assert failure(tmp_path / "out").kind is FailureKind.NON_FINITE_LOSS
    assert failure(tmp_path / "out").step == 3


def test_a_base_model_without_weights_is_a_bad_base_model(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    folder = inputs / "base_model"
    copied = shutil.copytree(folder.resolve(), tmp_path / "damaged")
    folder.unlink()
    (copied / "model.safetensors").write_bytes(b"not tensors")
    copied.rename(folder)
    assert train(tiny_plan(tiny_spec(total_steps=2)), inputs, tmp_path / "out", one_rank) == 0
    assert failure(tmp_path / "out").kind is FailureKind.BAD_BASE_MODEL
