"""Several ranks under torchrun with gloo, on a tiny base model, as the supervisor starts them."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from domain.plans import ControlRecord, FailureKind, Precision, RunFailure, RunReport, RunStopped, TrainPlan
from domain.runs import LoraMethod, RunSpec
from tests.tiny_engine import NO_DIGEST, tiny_plan, tiny_spec

Launch = Callable[[TrainPlan, str], subprocess.Popen[str]]

PATIENCE_S = 60
LONG = 100_000


def finish(process: subprocess.Popen[str]) -> int:
    _, errors = process.communicate(timeout=PATIENCE_S)
    if process.returncode:
        print(errors)  # noqa: T201 - pytest shows it where a test fails
    return process.returncode


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    path = out / "run" / "progress.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in parsed if record["kind"] == kind]


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def training(launch: Launch, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks in the middle of a run that would take hours; its folder is tmp_path/out."""
    process = launch(tiny_plan(tiny_spec(total_steps=LONG), world_size=2), "out")
    wait_until(lambda: len(records(tmp_path / "out", "train")) > 1, process)
    yield process
    process.kill()
    process.communicate()


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def validated(**changes: Any) -> RunSpec:
    spec = tiny_spec(**changes)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"validation": NO_DIGEST})})


def test_two_ranks_with_ragged_masks_match_one_process(launch: Launch, tmp_path: Path) -> None:
    spec = validated(total_steps=9, validate_every_steps=3)
    for world_size, name in ((1, "one"), (2, "two")):
        assert finish(launch(tiny_plan(spec, world_size=world_size), name)) == 0
    for kind in ("train", "validation"):
        one, two = records(tmp_path / "one", kind), records(tmp_path / "two", kind)
        assert [record["step"] for record in one] == [record["step"] for record in two]
        assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-5)
        assert [r["token_accuracy"] for r in two] == [r["token_accuracy"] for r in one]
    norms = [[r["grad_norm"] for r in records(tmp_path / name, "train")] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    one, two = (load_file(tmp_path / name / "run/adapter/adapter_model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        # fp32 sums in another order differ by some 1e-7; AdamW divides by the gradient's size, which magnifies it
        # where that is small, and moves a weight by 3e-3 a step.
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5, msg=name)
    report = RunReport.model_validate_json((tmp_path / "two/run/report.json").read_bytes())
    assert report.world_size == 2


@pytest.mark.parametrize("shape", [(2, Precision.FP32), (2, Precision.BF16), (3, Precision.FP32)])
def test_a_resumed_run_ends_in_the_same_bytes(
    shape: tuple[int, Precision], launch: Launch, tmp_path: Path, inputs: Path
) -> None:
    world_size, precision = shape
    # An adapter large enough for several of DDP's buckets: three ranks show their layout (engine/step.py).
    spec = tiny_spec(total_steps=7, checkpoint_every_steps=4, method=LoraMethod(lora_rank=128, dropout=0.2))
    plan = tiny_plan(spec, world_size=world_size, precision=precision)
    assert finish(launch(plan, "first")) == 0
    checkpoint = inputs / "run" / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(tmp_path / "first/run/checkpoints/step-000004", checkpoint)
    assert finish(launch(tiny_plan(spec, world_size=world_size, precision=precision, resume_step=4), "second")) == 0
    weights = [(tmp_path / name / "run/adapter/adapter_model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


def order(out: Path, op: str) -> None:
    record = ControlRecord.model_validate({"op": op, "run": "run"})
    with (out / "control.jsonl").open("a") as stream:
        stream.write(record.model_dump_json() + "\n")


def check_stopped(out: Path) -> None:
    stopped = RunStopped.model_validate_json((out / "run/stopped.json").read_bytes())
    assert stopped.step == records(out, "train")[-1]["step"]
    assert (out / f"run/checkpoints/step-{stopped.step:06d}/COMPLETE").exists()
    assert not (out / "run/adapter").exists()


def test_control_asks_for_a_checkpoint_and_then_for_the_end(training: subprocess.Popen[str], tmp_path: Path) -> None:
    order(tmp_path / "out", "checkpoint")
    wait_until(lambda: records(tmp_path / "out", "checkpoint"), training)
    (written,) = records(tmp_path / "out", "checkpoint")
    assert (tmp_path / f"out/run/checkpoints/step-{written['step']:06d}/COMPLETE").exists()
    order(tmp_path / "out", "stop")
    assert finish(training) == 0
    check_stopped(tmp_path / "out")


def test_sigterm_to_one_rank_stops_all_with_a_checkpoint(training: subprocess.Popen[str], tmp_path: Path) -> None:
    ranks_of(training)[-1].terminate()
    assert finish(training) == 0
    check_stopped(tmp_path / "out")


def test_sigterm_to_torchrun_stops_all_with_a_checkpoint(training: subprocess.Popen[str], tmp_path: Path) -> None:
    training.terminate()
    finish(training)
    check_stopped(tmp_path / "out")


def test_a_dead_rank_is_noticed_by_its_peer(training: subprocess.Popen[str], tmp_path: Path) -> None:
    ranks_of(training)[-1].kill()
    assert finish(training) != 0
    failure = RunFailure.model_validate_json((tmp_path / "out/run/failure.json").read_bytes())
    assert failure.kind is FailureKind.CRASH


def test_ranks_die_with_their_parent(training: subprocess.Popen[str]) -> None:
    ranks = ranks_of(training)
    assert len(ranks) == 2
    os.kill(training.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(ranks, timeout=10)
    assert (len(gone), alive) == (2, [])
