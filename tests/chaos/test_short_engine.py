"""The engine that trains nothing keeps to the contract of the one that does."""

import subprocess
import sys
from pathlib import Path

import pytest

from chaos import short_engine
from chaos.short_engine import STATE, chain_of
from domain.digests import Manifest, manifest_of_tree
from domain.plans import (
    CalibratePlan,
    CalibrateReport,
    Compute,
    ControlRecord,
    EngineManifest,
    InspectPlan,
    InspectReport,
    ProgressRecord,
    RunPlan,
    RunReport,
    RunStopped,
    TrainPlan,
)
from domain.runs import TooLong
from tests.tiny_engine import tiny_spec
from workers.engine_process import Launcher, Workspace

ENGINE = Launcher(program=("-I", "-S", str(Path(short_engine.__file__))))
RUN = "0" * 32


def run(verb: str, workspace: Workspace) -> None:
    described = ENGINE.describe(verb, workspace)  # type: ignore[arg-type]
    subprocess.run([*described.argv], cwd=workspace.folder, env=dict(described.env), check=True, timeout=30)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "work")


def train(workspace: Workspace, *, resume_step: int | None = None, steps: int = 7) -> Path:
    spec = tiny_spec(total_steps=steps, checkpoint_every_steps=3)
    plan = RunPlan(run=RUN, spec=spec, resume_step=resume_step)
    workspace.write_plan(TrainPlan(compute=Compute(), runs=(plan,)))
    run("train", workspace)
    return workspace.out / RUN


def test_a_run_leaves_what_the_contract_says(workspace: Workspace) -> None:
    out = train(workspace)
    told = [ProgressRecord.model_validate_json(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert [record.step for record in told] == [1, 2, 3, 4, 5, 6, 7]
    assert RunReport.model_validate_json((out / "report.json").read_bytes()).steps == 7
    assert sorted(folder.name for folder in (out / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    for folder in (out / "checkpoints").iterdir():
        listed = Manifest.model_validate_json((folder / "COMPLETE").read_bytes())
        assert set(listed.files) < set(manifest_of_tree(folder).files)
        EngineManifest.model_validate_json((folder / "checkpoint.json").read_bytes())


def test_a_resumed_run_comes_to_the_bytes_of_an_uninterrupted_one(workspace: Workspace, tmp_path: Path) -> None:
    whole = train(workspace)
    second = Workspace.create(tmp_path / "second")
    (second.inputs / RUN).mkdir()
    (whole / "checkpoints" / "step-000003").rename(second.inputs / RUN / "checkpoint")
    resumed = train(second, resume_step=3)
    adapters = [(out / "adapter" / STATE).read_text() for out in (whole, resumed)]
    assert adapters == [f'"{chain_of(RUN, 7)}"'] * 2
    # The control: a step too few, one of another run, and the state of another step are other bytes.
    assert len({chain_of(RUN, 7), chain_of(RUN, 6), chain_of("1" * 32, 7)}) == 3
    (second.inputs / RUN / "checkpoint").rename(tmp_path / "kept")
    wrong = Workspace.create(tmp_path / "third")
    (wrong.inputs / RUN).mkdir()
    (tmp_path / "kept").rename(wrong.inputs / RUN / "checkpoint")
    out = train(wrong, resume_step=4)
    assert (out / "adapter" / STATE).read_text() != adapters[0]


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint(workspace: Workspace) -> None:
    order = ControlRecord(op="stop", run=RUN)
    (workspace.out / "control.jsonl").write_text(order.model_dump_json() + "\n")
    assert RunStopped.model_validate_json((train(workspace) / "stopped.json").read_bytes()).step == 0


def test_it_inspects_and_calibrates(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_plan(InspectPlan(files=("training_file",), max_seq_len=64, too_long=TooLong.REFUSE))
    run("inspect", workspace)
    assert InspectReport.model_validate_json((workspace.out / "report.json").read_bytes()).files[0].tokens == 10
    other = Workspace.create(tmp_path / "other")
    other.write_plan(CalibratePlan(compute=Compute()))
    run("calibrate", other)
    assert CalibrateReport.model_validate_json((other.out / "report.json").read_bytes()).token_budget == 256


def test_it_imports_nothing_that_is_installed() -> None:
    program = f"import runpy, sys; runpy.run_path({short_engine.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert not {"pydantic", "domain", "torch", "numpy"} & set(loaded.stdout.split())
