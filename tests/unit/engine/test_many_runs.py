"""Several runs of a plan at once, on a tiny base model in this process."""

import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from domain.plans import ControlRecord, FailureKind, PathChoice, RunFailure, RunPlan, RunReport, RunStopped, TrainPlan
from domain.runs import BottleneckMethod, FullMethod, LoraInit, LoraMethod, Method, Optimiser, RunSpec, Schedule
from engine import inits
from engine import train as training
from engine.distributed import Ranks
from engine.train import Training
from tests.tiny_engine import NO_DIGEST, tiny_plan, tiny_rows, tiny_spec, write_rows

LONG = 100_000

# Runs that differ in everything a run has to itself.
SPECS: Mapping[str, RunSpec] = {
    "a": tiny_spec(total_steps=6, method=LoraMethod(lora_rank=4), seed=1),
    "b": tiny_spec(
        total_steps=9,
        method=LoraMethod(lora_rank=16, alpha=8, use_rslora=True, target_modules=("q_proj", "down_proj")),
        optimiser=Optimiser(learning_rate=1e-2, schedule=Schedule.COSINE, clip_norm=0.1, weight_decay=0.1),
        batch_size=2,
        checkpoint_every_steps=4,
    ),
    "c": tiny_spec(total_steps=3, method=LoraMethod(lora_rank=2, rank_pattern={"v_proj": 7}), batch_size=7, seed=9),
}


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def inputs(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    for number, run in enumerate(SPECS):
        write_rows(folder / run / "train.jsonl", tiny_rows(20)[number : number + 10])
    (folder / "base_model").symlink_to(tiny_folder)
    return folder


def plan_of(*runs: RunPlan, token_budget: int = 1000, path: PathChoice = PathChoice.AUTO) -> TrainPlan:
    plan = tiny_plan(SPECS["a"])
    compute = plan.compute.model_copy(update={"token_budget": token_budget, "path": path, "peak_flops": 1e9})
    return plan.model_copy(update={"compute": compute, "runs": runs})


def run_of(name: str, **changes: Any) -> RunPlan:
    spec = SPECS[name].model_copy(update=changes)
    return RunPlan(run=name, spec=spec)


def train(plan: TrainPlan, inputs: Path, out: Path, ranks: Ranks) -> None:
    out.mkdir(exist_ok=True)
    assert Training(plan, inputs, out, ranks).run_all() == 0


def adapter(out: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(out / run / "adapter" / "adapter_model.safetensors")


def lines(out: Path, run: str, kind: str = "train") -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (out / run / "progress.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def failure(out: Path, run: str) -> RunFailure:
    return RunFailure.model_validate_json((out / run / "failure.json").read_bytes())


@pytest.mark.parametrize("path", [PathChoice.FAST, PathChoice.GENERAL])
@pytest.mark.parametrize("token_budget", [1000, 60])
def test_runs_trained_together_learn_what_they_learn_alone(
    inputs: Path, tmp_path: Path, one_rank: Ranks, *, token_budget: int, path: PathChoice
) -> None:
    train(plan_of(*map(run_of, SPECS), token_budget=token_budget, path=path), inputs, tmp_path / "all", one_rank)
    for run, spec in SPECS.items():
        train(plan_of(run_of(run), path=path), inputs, tmp_path / run, one_rank)
        together, alone = lines(tmp_path / "all", run), lines(tmp_path / run, run)
        assert [record["step"] for record in together] == list(range(1, spec.total_steps + 1))
        assert [r["loss"] for r in together] == pytest.approx([r["loss"] for r in alone], rel=1e-5)
        for name, weight in adapter(tmp_path / run, run).items():
            # AdamW magnifies the rounding of gradients near zero; a step moves a weight by up to 1e-2.
            torch.testing.assert_close(adapter(tmp_path / "all", run)[name], weight, rtol=0, atol=1e-5, msg=name)
        report = RunReport.model_validate_json((tmp_path / "all" / run / "report.json").read_bytes())
        assert report.path is path


def test_passes_are_shared_and_say_how_full_they_were(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    passes: list[int] = []
    whole = training.step_together

    def counted(steppings: Any, *rest: Any, **named: Any) -> Any:
        passes.append(len(steppings))
        return whole(steppings, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step_together", counted)
        train(plan_of(*map(run_of, SPECS)), inputs, tmp_path / "out", one_rank)
    # Three for as long as the shortest lasts, then two, then one.
    assert passes == [3] * 3 + [2] * 3 + [1] * 3
    (last,) = lines(tmp_path / "out", "b")[-1:]
    assert last["padding_ratio"] == 1.0
    assert last["mfu"] > 0
    assert last["memory_bytes"] > 1 << 20
    assert last["step_s"] > 0


def test_two_ways_of_computing_serve_one_plan(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    mixed = run_of("b", method=LoraMethod(lora_rank=4, use_dora=True)), run_of("c", method=BottleneckMethod(width=4))
    train(plan_of(run_of("a"), *mixed), inputs, tmp_path / "out", one_rank)
    paths = [json.loads((tmp_path / "out" / run / "report.json").read_text())["path"] for run in SPECS]
    assert paths == ["fast", "general", "general"]
    for run in SPECS:
        losses = [record["loss"] for record in lines(tmp_path / "out", run)]
        assert losses[-1] < losses[0]


def test_a_run_whose_loss_explodes_ends_alone(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    wild = Optimiser(learning_rate=1.0, clip_norm=0.0, schedule=Schedule.CONSTANT)
    sick = run_of("b", optimiser=wild, method=LoraMethod(lora_rank=4, alpha=4096.0))
    with pytest.MonkeyPatch.context() as patch:
        # Random weights of this size do not overflow by themselves.
        patch.setattr("engine.run.learning_rate_at", lambda *when: 1e30 if when[-1] is wild else 1e-3)
        sound = run_of("a", optimiser=Optimiser(schedule=Schedule.CONSTANT))
        train(plan_of(sick, sound), inputs, tmp_path / "out", one_rank)
        train(plan_of(sound), inputs, tmp_path / "alone", one_rank)
    assert failure(tmp_path / "out", "b").kind is FailureKind.NON_FINITE_LOSS
    assert failure(tmp_path / "out", "b").step == 1
    for name, weight in adapter(tmp_path / "alone", "a").items():
        torch.testing.assert_close(adapter(tmp_path / "out", "a")[name], weight, rtol=0, atol=1e-5)


def test_a_run_that_breaks_its_pass_ends_alone(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    whole = training.step_together

    def breaking(steppings: Any, *rest: Any, **named: Any) -> Any:
        if any(stepping.clip_norm == SPECS["b"].optimiser.clip_norm for stepping in steppings):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return whole(steppings, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step_together", breaking)
        train(plan_of(*map(run_of, SPECS)), inputs, tmp_path / "out", one_rank)
    assert failure(tmp_path / "out", "b").kind is FailureKind.OUT_OF_MEMORY
    for run in ("a", "c"):
        assert (tmp_path / "out" / run / "report.json").exists()
        assert len(lines(tmp_path / "out", run)) == SPECS[run].total_steps


def test_runs_stopped_together_end_together_in_the_same_bytes(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    # A budget that not all of them fit into: whose turn it is must be remembered.
    plan = plan_of(*map(run_of, SPECS), token_budget=120)
    train(plan, inputs, tmp_path / "whole", one_rank)

    with pytest.MonkeyPatch.context() as patch:
        whole, ticks = Training._tick, iter(range(100))  # noqa: SLF001 - stopped as a signal would, at a known tick

        def stopping(self: Training) -> None:
            whole(self)
            if next(ticks) == 3:
                self._control.terminated = True

        patch.setattr(Training, "_tick", stopping)
        train(plan, inputs, tmp_path / "first", one_rank)
    resumed = []
    for run in plan.runs:
        stopped = RunStopped.model_validate_json((tmp_path / "first" / run.run / "stopped.json").read_bytes())
        source = tmp_path / "first" / run.run / "checkpoints" / f"step-{stopped.step:06d}"
        shutil.copytree(source, inputs / run.run / "checkpoint")
        resumed.append(run.model_copy(update={"resume_step": stopped.step}))
    assert len({run.resume_step for run in resumed}) > 1
    train(plan.model_copy(update={"runs": tuple(resumed)}), inputs, tmp_path / "second", one_rank)
    for run in SPECS:
        folders = (tmp_path / name / run / "adapter" / "adapter_model.safetensors" for name in ("whole", "second"))
        assert len({folder.read_bytes() for folder in folders}) == 1


@pytest.mark.parametrize(
    "method",
    [
        LoraMethod(lora_rank=4, init=LoraInit.PISSA),
        LoraMethod(lora_rank=4, init=LoraInit.PISSA, use_dora=True),
        LoraMethod(lora_rank=2, init=LoraInit.EVA),
        LoraMethod(lora_rank=4, dropout=0.3, rank_pattern={"q_proj": 6}),
        FullMethod(),
        BottleneckMethod(width=4),
    ],
    ids=lambda method: json.dumps(method.model_dump(exclude_defaults=True)),
)
def test_every_method_resumes_to_the_same_bytes_and_begins_once(
    method: Method, inputs: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    spec = run_of("a", method=method, checkpoint_every_steps=3)
    train(plan_of(spec), inputs, tmp_path / "whole", one_rank)
    shutil.copytree(tmp_path / "whole" / "a" / "checkpoints" / "step-000003", inputs / "a" / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        for start in (LoraInit.PISSA, LoraInit.EVA):
            # Nothing to call: a resumed run must not ask for it.
            patch.delitem(inits.FACTORS, start)
        train(plan_of(spec.model_copy(update={"resume_step": 3})), inputs, tmp_path / "resumed", one_rank)
    exported = [sorted((tmp_path / name / "a" / "adapter").glob("*.safetensors")) for name in ("whole", "resumed")]
    assert [path.read_bytes() for path in exported[0]] == [path.read_bytes() for path in exported[1]]


def test_a_run_can_join_and_another_leave_while_one_trains(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def order(op: str, run: str, plan: RunPlan | None = None) -> None:
        record = ControlRecord.model_validate({"op": op, "run": run, "plan": plan})
        with (out / "control.jsonl").open("a") as stream:
            stream.write(record.model_dump_json() + "\n")

    with pytest.MonkeyPatch.context() as patch:
        whole, ticks = Training._tick, iter(range(LONG))  # noqa: SLF001 - orders at known ticks

        def ordering(self: Training) -> None:
            whole(self)
            match next(ticks):
                case 2:
                    order("join", "c", run_of("c"))
                case 4:
                    order("checkpoint", "b")
                    order("stop", "a")

        patch.setattr(Training, "_tick", ordering)
        train(plan_of(run_of("a", total_steps=LONG), run_of("b")), inputs, out, one_rank)
    stopped = RunStopped.model_validate_json((out / "a" / "stopped.json").read_bytes())
    assert stopped.step == 5
    assert (out / "a" / "checkpoints" / "step-000005" / "COMPLETE").exists()
    # Step 4 is due by itself, 5 was asked for.
    assert [record["step"] for record in lines(out, "b", "checkpoint")][:2] == [4, 5]
    for run in ("b", "c"):
        assert (out / run / "report.json").exists()
    train(plan_of(run_of("c")), inputs, tmp_path / "alone", one_rank)
    for name, weight in adapter(tmp_path / "alone", "c").items():
        torch.testing.assert_close(adapter(out, "c")[name], weight, rtol=0, atol=1e-5)


def test_what_will_not_fit_fails_before_its_first_step(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.prepare.free_bytes", lambda _: 1 << 20)
        train(plan_of(run_of("a")), inputs, tmp_path / "out", one_rank)
    assert failure(tmp_path / "out", "a").kind is FailureKind.OUT_OF_MEMORY
    assert "GiB" in failure(tmp_path / "out", "a").message
    assert lines(tmp_path / "out", "a") == []


def test_each_run_validates_on_its_own_rows_when_it_is_due(inputs: Path, tmp_path: Path, one_rank: Ranks) -> None:
    write_rows(inputs / "a" / "validation.jsonl", tiny_rows(5))
    data = SPECS["a"].data.model_copy(update={"validation": NO_DIGEST})
    train(plan_of(run_of("a", data=data, validate_every_steps=4), run_of("c")), inputs, tmp_path / "out", one_rank)
    assert [record["step"] for record in lines(tmp_path / "out", "a", "validation")] == [4, 6]
    assert lines(tmp_path / "out", "c", "validation") == []
