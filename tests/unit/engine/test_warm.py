"""A process that waits for one plan, against one that is started for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.plans import Compute, Device, Precision, RunReport, TrainPlan
from domain.runs import LoraMethod
from domain.warm import ORDER, Order, WarmPlan
from engine import warm
from engine.decoder.path import DecoderPath
from engine.distributed import Ranks
from engine.machine import resolve
from engine.paths import Paths
from tests.tiny_engine import tiny_plan, tiny_rows, tiny_spec, write_rows, write_tiny_base_model

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
# Dropout shows whether anything was drawn before.
SPEC = tiny_spec(total_steps=5, method=LoraMethod(lora_rank=4, dropout=0.2))
WITHIN_S = 60


@dataclass
class Work:
    """A plan and its inputs, with a base model of its own."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, plan: TrainPlan, base_model: Path) -> "Work":
        work = cls(folder)
        write_rows(work.inputs / "run" / "train.jsonl", tiny_rows(10))
        (work.inputs / "base_model").symlink_to(base_model)
        work.out.mkdir()
        work.plan.write_text(plan.model_dump_json())
        return work

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def order(self) -> Order:
        return Order(plan=self.plan, inputs=self.inputs, out=self.out)

    @property
    def report(self) -> RunReport:
        return RunReport.model_validate_json((self.out / "run" / "report.json").read_bytes())

    @property
    def adapter(self) -> bytes:
        return (self.out / "run" / "adapter" / "adapter_model.safetensors").read_bytes()

    def words(self) -> tuple[str, ...]:
        return (f"--plan={self.plan}", f"--inputs={self.inputs}", f"--out={self.out}")


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def engine(*words: str, ranks: int = 1) -> "subprocess.Popen[bytes]":
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *(torchrun if ranks > 1 else ()), "-m", "engine", *words], cwd=ROOT, env=environment
        )
        started.append(process)
        return process

    yield engine
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def waiting(tmp_path: Path, tiny_folder: Path) -> Work:
    """The folder of a warm process that is to hold the tiny base model."""
    return waiting_for(tmp_path / "warm", tiny_plan(SPEC).compute, tiny_folder)


def waiting_for(folder: Path, compute: Compute, base_model: Path) -> Work:
    (folder / "inputs").mkdir(parents=True)
    (folder / "inputs" / "base_model").symlink_to(base_model)
    (folder / "plan.json").write_text(WarmPlan(compute=compute).model_dump_json())
    return Work(folder)


def order(waiting: Work, work: Work) -> None:
    unfinished = waiting.inputs / "unfinished"
    unfinished.write_text(work.order.model_dump_json())
    unfinished.rename(waiting.inputs / ORDER)


def carry_out(work: Work, warmed: Paths | None) -> int:
    """In this process."""
    return warm.carry_out(work.order, warmed, Ranks(0, 1, CPU))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_warm_process_ends_with_the_bytes_of_a_cold_one(
    ranks: int, start: Start, tmp_path: Path, tiny_folder: Path
) -> None:
    plan = tiny_plan(SPEC, world_size=ranks)
    cold, work = (Work.create(tmp_path / name, plan, tiny_folder) for name in ("cold", "work"))
    waiting = waiting_for(tmp_path / "warm", plan.compute, tiny_folder)
    warm_process = start("warm", *waiting.words(), ranks=ranks)
    assert start("train", *cold.words(), ranks=ranks).wait(WITHIN_S) == 0
    # It has had time to wait.
    assert warm_process.poll() is None
    order(waiting, work)
    assert warm_process.wait(WITHIN_S) == 0
    assert work.adapter == cold.adapter
    assert work.report.final_train_loss == cold.report.final_train_loss


def test_a_second_order_is_not_obeyed(start: Start, waiting: Work, tmp_path: Path, tiny_folder: Path) -> None:
    first, second = (Work.create(tmp_path / name, tiny_plan(SPEC), tiny_folder) for name in ("first", "second"))
    process = start("warm", *waiting.words())
    order(waiting, first)
    wait_for((first.out / "run").exists)
    order(waiting, second)
    assert process.wait(WITHIN_S) == 0
    assert first.report.steps == 5
    assert list(second.out.iterdir()) == []


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_waiting_process_dies_with_its_parent(waiting: Work) -> None:
    program = f"""
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-m", "engine", "warm", *{list(waiting.words())!r}])
print(child.pid, flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    # Its first thread beyond the main one is torch's: die_with_parent comes before that import.
    wait_for(lambda: any("libtorch" in mapped.path for mapped in child.memory_maps()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    child.wait(WITHIN_S)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The base models that are loaded from now on."""
    folders: list[Path] = []
    load = DecoderPath.load

    def counted(folder: Path, *arguments: Any, **more: Any) -> DecoderPath:
        folders.append(folder)
        return load(folder, *arguments, **more)

    monkeypatch.setattr(DecoderPath, "load", counted)
    return folders


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({}, 1),
        # Neither has anything to do with how a base is loaded.
        ({"token_budget": 32, "peak_flops": 1e9}, 1),
        # What `auto` came to, as a checkpoint has it.
        ({"device": Device.CPU}, 1),
        ({"precision": Precision.BF16}, 2),
        ({"activation_checkpointing": True}, 2),
    ],
)
def test_only_a_base_that_is_needed_otherwise_is_loaded_anew(
    change: Mapping[str, object], times: int, loads: list[Path], waiting: Work
) -> None:
    plan = tiny_plan(SPEC)
    compute = plan.compute.model_copy(update={"device": Device.AUTO})
    plan = plan.model_copy(update={"compute": compute.model_copy(update=change)})
    base_model = waiting.inputs / "base_model"
    work = Work.create(waiting.folder / "work", plan, base_model)
    warmed = warm.preload(base_model, resolve(compute, CPU), CPU)
    assert carry_out(work, warmed) == 0
    assert len(loads) == times
    assert work.report.steps == 5


def test_another_base_model_is_loaded_anew(waiting: Work, tmp_path: Path) -> None:
    other = write_tiny_base_model(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, other / "model.safetensors")
    alone, work = (Work.create(tmp_path / name, tiny_plan(SPEC), other) for name in ("alone", "work"))
    warmed = warm.preload(waiting.inputs / "base_model", tiny_plan(SPEC).compute, CPU)
    assert warmed
    for paths_given, given in ((None, alone), (warmed, work)):
        assert carry_out(given, paths_given) == 0
    assert work.adapter == alone.adapter


@pytest.mark.parametrize("damage", ["no folder", "no weights", "not tensors"])
def test_a_base_that_cannot_be_used_leaves_a_process_with_its_imports_done(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base_model"
    if damage != "no folder":
        write_tiny_base_model(folder)
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "not tensors":
        (folder / "model.safetensors").write_bytes(b"not tensors")
    assert warm.preload(folder, tiny_plan(SPEC).compute, CPU) is None
    # Its log says why.
    assert ("BadBaseModel" in capfd.readouterr().err) == (damage != "no folder")


@pytest.mark.parametrize("change", [{"world_size": 2}, {"device": Device.CUDA}])
def test_a_plan_for_other_ranks_is_refused_before_it_begins(
    change: Mapping[str, object], tmp_path: Path, tiny_folder: Path
) -> None:
    plan = tiny_plan(SPEC)
    plan = plan.model_copy(update={"compute": plan.compute.model_copy(update=change)})
    work = Work.create(tmp_path / "work", plan, tiny_folder)
    with pytest.raises(SystemExit, match="warmed"):
        carry_out(work, None)
    assert list(work.out.iterdir()) == []
