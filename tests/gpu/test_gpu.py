"""What only a CUDA device can show: the same engine there, nccl, half precision, a quantised base, device memory.

Everything here is skipped where there is no device. `make test` runs it where there is one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from domain.plans import (
    Compute,
    Device,
    FailureKind,
    PathChoice,
    Precision,
    Quantisation,
    RunFailure,
    RunPlan,
    RunReport,
    TrainPlan,
)
from domain.runs import LoraMethod
from engine.inits import initial
from engine.path import Path as ComputePath
from engine.paths import Paths
from engine.stream import Part
from engine.tokenise import TokenisedRow
from tests.tiny_engine import tiny_rows, tiny_spec, write_rows, write_tiny_base_model

if TYPE_CHECKING:
    from engine.adapter import Adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PATHS = pytest.mark.parametrize("path", [PathChoice.FAST, PathChoice.GENERAL])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_base_model(folder / "base_model")
    write_rows(folder / "run" / "train.jsonl", tiny_rows(24))
    return folder


def rows() -> list[TokenisedRow]:
    """Documents of very different lengths, one of them longer than short documents' attention takes."""
    lengths = (3, 40, 170, 9, 700)
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(torch.randint(3, 300, (length,), generator=generator).tolist()) for length in lengths]
    return [
        TokenisedRow(line, ids, tuple(place % 3 > 0 for place in range(len(ids))))
        for line, ids in enumerate(drawn, start=1)
    ]


def opened(base_model: Path, choice: PathChoice, device: str, precision: Precision) -> ComputePath:
    compute = Compute(precision=precision, path=choice)
    return Paths(base_model, compute, torch.device(device)).load(choice)


def gradient(path: ComputePath, base_model: Path) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one pass, for an adapter whose B is not zero."""
    adapter: Adapter = initial(LoraMethod(lora_rank=4), path, seed=1, base_model=base_model, rows=rows())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for site in adapter.sites:
            drawn = torch.randn(site.B_OR.shape, generator=generator) * 0.05
            site.B_OR.copy_(drawn.to(site.B_OR.device))
    supervised = sum(row.supervised_tokens for row in rows())
    passed = path.gradients([Part(adapter, rows(), scale=1 / supervised)])
    return passed.sums[0].loss / supervised, adapter.grad_P.cpu()


@PATHS
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.FP32, 1e-4), (Precision.BF16, 0.06), (Precision.FP16, 0.02)]
)
def test_the_device_computes_what_the_cpu_computes(
    inputs: Path, path: PathChoice, *, precision: Precision, tolerance: float
) -> None:
    base_model = inputs / "base_model"
    expected_loss, expected = gradient(opened(base_model, path, "cpu", Precision.FP32), base_model)
    loss, found = gradient(opened(base_model, path, "cuda", precision), base_model)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert float((found - expected).norm() / expected.norm()) < tolerance


def trained(inputs: Path, out: Path, compute: Compute) -> tuple[RunReport | None, RunFailure | None, list[float]]:
    """A run through the process contract, under torchrun where it has several ranks."""
    out.mkdir()
    plan = TrainPlan(compute=compute, runs=(RunPlan(run="run", spec=tiny_spec(total_steps=20)),))
    (out / "plan.json").write_text(plan.model_dump_json())
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={compute.world_size}"]
    engine = ["-m", "engine", "train", f"--plan={out}/plan.json", f"--inputs={inputs}", f"--out={out}"]
    launcher = torchrun if compute.world_size > 1 else []
    subprocess.run([sys.executable, *launcher, *engine], check=True, timeout=240)
    report, failure = out / "run" / "report.json", out / "run" / "failure.json"
    progress = [json.loads(line) for line in (out / "run" / "progress.jsonl").read_text().splitlines()]
    return (
        RunReport.model_validate_json(report.read_bytes()) if report.exists() else None,
        RunFailure.model_validate_json(failure.read_bytes()) if failure.exists() else None,
        [record["loss"] for record in progress if record["kind"] == "train"],
    )


@PATHS
@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_a_run_learns_and_reports_device_memory(
    inputs: Path, tmp_path: Path, path: PathChoice, precision: Precision
) -> None:
    report, failure, losses = trained(inputs, tmp_path / "out", Compute(precision=precision, path=path))
    assert failure is None
    assert report is not None
    assert report.device is Device.CUDA
    assert 0 < report.peak_memory_bytes < torch.cuda.get_device_properties(0).total_memory
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("quantisation", [Quantisation.NF4, Quantisation.INT8])
def test_a_run_learns_on_a_quantised_base(inputs: Path, tmp_path: Path, quantisation: Quantisation) -> None:
    compute = Compute(precision=Precision.BF16, quantisation=quantisation)
    report, _, losses = trained(inputs, tmp_path / "out", compute)
    assert report is not None
    assert report.path is PathChoice.GENERAL
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_ranks_with_nccl_match_one(inputs: Path, tmp_path: Path) -> None:
    one = trained(inputs, tmp_path / "one", Compute(precision=Precision.FP32))[2]
    two = trained(inputs, tmp_path / "two", Compute(precision=Precision.FP32, world_size=2))[2]
    assert two == pytest.approx(one, rel=1e-4)


def test_a_pass_beyond_the_devices_memory_is_refused_before_it_begins(inputs: Path, tmp_path: Path) -> None:
    keep = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
    _, failure, losses = trained(inputs, tmp_path / "out", Compute(token_budget=1 << 20))
    del keep
    assert failure is not None
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert losses == []
