"""A run that goes on from a finished adapter computes, before its first step, what that adapter computes."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain.digests import manifest_of_tree
from domain.plans import (
    Compute,
    EvaluatePlan,
    EvaluationItem,
    EvaluationReport,
    FailureKind,
    ProgressRecord,
    RunFailure,
)
from domain.runs import LoraMethod, RunSpec
from engine.distributed import Ranks
from engine.evaluate import Evaluating
from engine.train import Training
from tests.tiny_engine import NO_DIGEST, tiny_plan, tiny_rows, tiny_spec, write_rows

ROWS = 8
# The first step sees every row once, before any weight is changed.
WHOLE = 8
METHODS = {
    "plain": LoraMethod(lora_rank=4),
    "patterns": LoraMethod(lora_rank=4, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3.0}),
    "dora": LoraMethod(lora_rank=4, use_dora=True),
}
Train = Callable[..., list[float]]


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def inputs(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    write_rows(folder / "run" / "train.jsonl", tiny_rows(ROWS))
    (folder / "base_model").symlink_to(tiny_folder)
    return folder


@pytest.fixture
def train(inputs: Path, tmp_path: Path, one_rank: Ranks) -> Train:
    """Train into a folder of that name; the loss of each step."""

    def trained(name: str, spec: RunSpec, *, resume_step: int | None = None) -> list[float]:
        out = tmp_path / name
        out.mkdir()
        assert Training(tiny_plan(spec, resume_step=resume_step), inputs, out, one_rank).run_all() == 0
        told = map(ProgressRecord.model_validate_json, (out / "run" / "progress.jsonl").read_text().splitlines())
        return [record.loss for record in told if record.kind == "train" and record.loss is not None]

    return trained


def spec_of(method: LoraMethod, *, total_steps: int, **changes: object) -> RunSpec:
    return tiny_spec(total_steps=total_steps, method=method, batch_size=WHOLE, **changes)


def continuing(inputs: Path, parent: Path, spec: RunSpec) -> RunSpec:
    """The parent's files in place, and the specification that names them."""
    (inputs / "run" / "parent").unlink(missing_ok=True)
    (inputs / "run" / "parent").symlink_to(parent)
    return spec.model_copy(update={"parent": manifest_of_tree(parent).digest})


def measured(inputs: Path, out: Path, adapter: Path, ranks: Ranks) -> EvaluationReport:
    """The rows' loss with the adapter, as peft and transformers compute it."""
    (inputs / "eval").mkdir()
    (inputs / "eval" / "evaluation.jsonl").symlink_to(inputs / "run" / "train.jsonl")
    (inputs / "eval" / "adapter").symlink_to(adapter)
    item = EvaluationItem(evaluation="eval", with_adapter=True, max_seq_len=256)
    compute: Compute = tiny_plan(spec_of(METHODS["plain"], total_steps=1)).compute
    assert Evaluating(EvaluatePlan(compute=compute, evaluations=(item,)), inputs, out, ranks).run_all() == 0
    return EvaluationReport.model_validate_json((out / "eval" / "report.json").read_bytes())


# The folder has the name of the base model in the configuration's place, which peft finds worth a word.
@pytest.mark.filterwarnings("ignore:The PEFT config")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_before_the_first_step_it_computes_what_its_parent_computes(
    *, inputs: Path, tmp_path: Path, one_rank: Ranks, method: LoraMethod, train: Train
) -> None:
    fresh = spec_of(method, total_steps=6)
    began = train("parent", fresh)
    parent = tmp_path / "parent" / "run" / "adapter"
    went_on = train("child", continuing(inputs, parent, fresh.model_copy(update={"total_steps": 1, "seed": 11})))

    report = measured(inputs, tmp_path / "measured", parent, one_rank)
    assert went_on[0] == pytest.approx(report.loss, rel=1e-5)
    # A run without a parent begins with the bare base: far from there.
    assert abs(began[0] - report.loss) > 0.01


def test_a_continued_adapter_can_be_continued(inputs: Path, tmp_path: Path, train: Train) -> None:
    spec = spec_of(METHODS["plain"], total_steps=3)
    begins = [train("first", spec)[0]]
    for name, before in (("second", "first"), ("third", "second")):
        begins.append(train(name, continuing(inputs, tmp_path / before / "run" / "adapter", spec))[0])
    assert begins == sorted(set(begins), reverse=True)


def test_a_resumed_run_goes_on_from_its_checkpoint_and_needs_its_parent_no_more(
    inputs: Path, tmp_path: Path, train: Train
) -> None:
    spec = spec_of(METHODS["plain"], total_steps=4, checkpoint_every_steps=2)
    train("parent", spec)
    child = continuing(inputs, tmp_path / "parent" / "run" / "adapter", spec)
    whole = train("whole", child)
    (inputs / "run" / "checkpoint").symlink_to(tmp_path / "whole" / "run" / "checkpoints" / "step-000002")
    (inputs / "run" / "parent").unlink()
    assert train("resumed", child, resume_step=2) == whole[2:]
    weights = [tmp_path / name / "run" / "adapter" / "adapter_model.safetensors" for name in ("whole", "resumed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("damage", ["other bytes", "other rank", "missing"])
def test_a_parent_that_is_not_the_one_named_fails_the_run(
    inputs: Path, tmp_path: Path, train: Train, damage: str
) -> None:
    spec = spec_of(METHODS["plain"], total_steps=1)
    train("parent", spec)
    parent = tmp_path / "parent" / "run" / "adapter"
    child = continuing(inputs, parent, spec)
    if damage == "other bytes":
        config = json.loads((parent / "adapter_config.json").read_text())
        (parent / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    elif damage == "other rank":
        child = child.model_copy(update={"method": LoraMethod(lora_rank=2)})
    else:
        child = child.model_copy(update={"parent": NO_DIGEST})
        (inputs / "run" / "parent").unlink()
    assert train("child", child) == []
    failure = RunFailure.model_validate_json((tmp_path / "child" / "run" / "failure.json").read_bytes())
    assert failure.kind is FailureKind.BAD_DATA
