"""What a machine is found to be capable of, from curves that are given and from a tiny base model."""

import select
from pathlib import Path

import pytest
import torch

from domain.plans import CalibratedPass, CalibratePlan, CalibrateReport, Compute, Device, Precision
from engine import calibrate
from engine.calibrate import best_of, measure_passes, smallest_near_best
from engine.synthetic import LONGEST_TOKENS, SyntheticRun, synthetic_rows

CPU = torch.device("cpu")


def curve(*speeds: float) -> list[CalibratedPass]:
    return [
        CalibratedPass(tokens=256 * 2**doubling, tokens_per_s=speed) for doubling, speed in enumerate(speeds)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("speeds", "budget"),
    [
        # 95 is 95 % of 100.
        ((90.0, 95.0, 100.0), 512),
        ((90.0, 94.9, 100.0), 1024),
        # The best need not be the largest.
        ((50.0, 100.0, 80.0, 96.0), 512),
        ((100.0,), 256),
    ],
)
def test_the_budget_is_the_smallest_size_within_a_twentieth_of_the_best(speeds: tuple[float, ...], budget: int) -> None:
    assert smallest_near_best(curve(*speeds)) == budget


class Machine:
    """A clock that moves by what passes take: so many tokens a second, at each size."""

    def __init__(self, *speeds: float) -> None:
        self.now, self._speeds = 0.0, {256 * 2**doubling: speed for doubling, speed in enumerate(speeds)}

    def seconds(self, tokens: int) -> float:
        self.now += tokens / self._speeds[tokens]
        return tokens / self._speeds[tokens]

    def sizes(self, fits: int = 1 << 30) -> list[int]:
        passes = measure_passes(self.seconds, lambda tokens: tokens <= fits, lambda: self.now)
        assert [measured.tokens_per_s for measured in passes] == pytest.approx(
            [self._speeds[measured.tokens] for measured in passes]
        )
        return [measured.tokens for measured in passes]


def test_two_doublings_without_a_gain_are_enough() -> None:
    assert Machine(500, 900, 910, 905, 2000).sizes() == [256, 512, 1024, 2048]
    # One that is no gain may be a busy moment.
    assert Machine(500, 490, 900, 900, 900, 2000).sizes() == [256, 512, 1024, 2048, 4096]


def test_a_slow_machine_is_measured_at_few_sizes_and_at_one_at_least() -> None:
    # 256 tokens take 2 s, 512 take 3 s: 1024 would take 6 s more, over ten in all.
    assert Machine(128, 170.7, 1000).sizes() == [256, 512]
    assert Machine(1, 1).sizes() == [256]


def test_what_would_not_fit_into_memory_is_not_tried() -> None:
    assert Machine(1e4, 2e4, 4e4, 8e4).sizes(fits=1024) == [256, 512, 1024]


def test_the_best_of_several_times_counts() -> None:
    times = iter([0.0, 3.0, 10.0, 11.0])
    assert best_of(lambda: None, lambda: next(times)) == 1.0


def test_synthetic_rows_have_the_tokens_asked_for_and_usual_lengths() -> None:
    for tokens in (64, 256, 2048):
        assert sum(len(row.ids) for row in synthetic_rows(tokens)) == tokens
    rows = synthetic_rows(16384)
    lengths = [len(row.ids) for row in rows]
    # exp(sigma^2 / 2) times the median is the mean of a log-normal distribution: 75 tokens.
    assert 65 < sum(lengths) / len(lengths) < 85
    assert max(lengths) <= LONGEST_TOKENS
    assert not any(row.supervised[0] for row in rows)
    assert rows == synthetic_rows(16384)


def test_a_synthetic_pass_trains(tiny_folder: Path) -> None:
    run = SyntheticRun(calibrate.Paths(tiny_folder, Compute(precision=Precision.FP32), CPU))
    before = run.adapter.masters_P.detach().clone()
    rows = synthetic_rows(256)
    passed = run.step(rows)
    assert passed.computed_tokens == 256
    # Random weights and tokens: about as likely as any other of the vocabulary's 320, and log(320) is 5.8.
    assert 4 < passed.sums[0].loss / sum(row.supervised_tokens for row in rows) < 9
    assert not torch.equal(run.adapter.masters_P, before)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_report_on_a_tiny_model_is_plausible(precision: Precision, tiny_folder: Path, tmp_path: Path) -> None:
    inputs, plan = tmp_path / "inputs", tmp_path / "plan.json"
    inputs.mkdir()
    (inputs / "base_model").symlink_to(tiny_folder)
    # One rank is measured, of however many.
    compute = Compute(world_size=2, device=Device.CPU, precision=precision)
    plan.write_text(CalibratePlan(compute=compute).model_dump_json())
    assert calibrate.main([f"--plan={plan}", f"--inputs={inputs}", f"--out={tmp_path}"]) == 0
    report = CalibrateReport.model_validate_json((tmp_path / "report.json").read_bytes())
    assert (report.precision, report.device) == (precision, Device.CPU)
    # From a small computer of ten years ago to the largest server.
    assert 1e9 < report.peak_flops < 1e15
    assert len(report.passes) >= 3
    assert report.token_budget == smallest_near_best(report.passes)
    # What training reaches of the peak cannot be more than all of it.
    run = SyntheticRun(calibrate.Paths(tiny_folder, compute, CPU))
    for measured in report.passes:
        needed = run.path.flops(measured.tokens, 0) / measured.tokens * measured.tokens_per_s
        assert needed < report.peak_flops
    assert report.hardware


def test_the_clock_of_one_thread_leaves_neighbours_out() -> None:
    one, several = (calibrate.clock_for(CPU, threads) for threads in (1, 2))
    before = one(), several()
    select.select([], [], [], 0.05)
    after = one(), several()
    assert after[1] - before[1] >= 0.05
    assert after[0] - before[0] < 0.05
