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


def failure(out: Path) -> RunFailure:
    return RunFailure.model_validate_json((out / "run/failure.json").read_bytes())


def rank_of(process: psutil.Process) -> int:
    return int(process.environ()["RANK"])


def test_a_dead_rank_is_named_by_its_peer(training: subprocess.Popen[str], tmp_path: Path) -> None:
    (dead,) = (process for process in ranks_of(training) if rank_of(process) == 1)
    dead.kill()
    assert finish(training) != 0
    assert failure(tmp_path / "out").kind is FailureKind.CRASH
    assert failure(tmp_path / "out").message == "Rank 1 of 2 died or no longer answers."


def test_a_hung_rank_is_named_once_its_peer_has_waited_long_enough(launch: Launch, tmp_path: Path) -> None:
    plan = tiny_plan(tiny_spec(total_steps=LONG), world_size=2)
    impatient = plan.compute.model_copy(update={"collective_timeout_s": 5})
    process = launch(plan.model_copy(update={"compute": impatient}), "out")
    wait_until(lambda: len(records(tmp_path / "out", "train")) > 1, process)
    (hung,) = (rank for rank in ranks_of(process) if rank_of(rank) == 1)
    hung.suspend()
    wait_until((tmp_path / "out/run/failure.json").exists)
    hung.kill()
    assert finish(process) != 0
    assert failure(tmp_path / "out").message == "Rank 1 of 2 died or no longer answers."


def test_ranks_die_with_their_parent(training: subprocess.Popen[str]) -> None:
    ranks = ranks_of(training)
    assert len(ranks) == 2
    os.kill(training.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(ranks, timeout=10)
    assert (len(gone), alive) == (2, [])


def runs_of(plan: TrainPlan, *names: str) -> TrainPlan:
    (one,) = plan.runs
    runs = tuple(one.model_copy(update={"run": name}) for name in names)
    return plan.model_copy(update={"runs": runs})


def adapter(out: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(out / run / "adapter/adapter_model.safetensors")


def test_different_runs_train_on_different_ranks(launch: Launch, tmp_path: Path, inputs: Path) -> None:
    for name in ("left", "right"):
        shutil.copytree(inputs / "run", inputs / name, dirs_exist_ok=True)
    plan = tiny_plan(tiny_spec(total_steps=5), world_size=2)
    # All of a batch of four rows fits a pass: there is no need to share.
    roomy = plan.compute.model_copy(update={"token_budget": 1000})
    together = runs_of(plan.model_copy(update={"compute": roomy}), "left", "right")
    assert finish(launch(together, "together")) == 0
    alone = tiny_plan(tiny_spec(total_steps=5))
    compute = alone.compute.model_copy(update={"token_budget": 1000})
    assert finish(launch(alone.model_copy(update={"compute": compute}), "alone")) == 0
    for name in ("left", "right"):
        (report,) = (
            RunReport.model_validate_json(path.read_bytes()) for path in tmp_path.glob(f"together/{name}/report.json")
        )
        assert report.steps == 5
        found, expected = adapter(tmp_path / "together", name), adapter(tmp_path / "alone", "run")
        assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_a_run_that_fails_on_its_rank_leaves_the_other_ranks_run_alone(
    launch: Launch, tmp_path: Path, inputs: Path
) -> None:
    for name in ("left", "right"):
        shutil.copytree(inputs / "run", inputs / name, dirs_exist_ok=True)
    plan = tiny_plan(tiny_spec(total_steps=5), world_size=2)
    roomy = plan.compute.model_copy(update={"token_budget": 1000})
    together = runs_of(plan.model_copy(update={"compute": roomy}), "left", "right")
    # A layer that the base does not have: seen by the rank that builds the adapter, and by no other.
    lost = together.runs[0].spec.model_copy(update={"method": LoraMethod(target_modules=("no_such_layer",))})
    broken = together.model_copy(
        update={"runs": (together.runs[0].model_copy(update={"spec": lost}), together.runs[1])}
    )
    assert finish(launch(broken, "out")) == 0
    assert (
        RunFailure.model_validate_json((tmp_path / "out/left/failure.json").read_bytes()).kind is FailureKind.BAD_DATA
    )
    assert (tmp_path / "out/right/report.json").exists()


def test_ranks_of_two_hosts_match_one_process(launch_on_two_hosts: Launch, launch: Launch, tmp_path: Path) -> None:
    spec = tiny_spec(total_steps=4)
    assert finish(launch(tiny_plan(spec), "one")) == 0
    assert finish(launch_on_two_hosts(tiny_plan(spec, world_size=2), "two")) == 0
    losses = [[r["loss"] for r in records(tmp_path / name, "train")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, weight in adapter(tmp_path / "one", "run").items():
        torch.testing.assert_close(adapter(tmp_path / "two", "run")[name], weight, rtol=0, atol=1e-5, msg=name)
