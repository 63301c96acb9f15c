"""What a table says of the rounds: medians, the share of a round's own peak, latencies."""

import json
from pathlib import Path

import pytest

from benchmarks.results import PeakMeasured, Results
from benchmarks.summaries import mfu_of, percentile, rate_of, summarise, summarise_jobs, write


def test_speed_counts_real_tokens_of_the_steps_that_do_not_warm_up(results: Results) -> None:
    first = results.steps[0]
    # One counted step of 1,000 tokens each: 2 s of the processor on one thread, 1 s by the clock on two.
    assert rate_of(first.steps, threads=1, by_cpu=True) == 500.0
    assert rate_of(first.steps, threads=2, by_cpu=False) == 1000.0


def test_mfu_is_a_share_of_the_same_rounds_peak(results: Results) -> None:
    # 260 GFLOP in 2 s of a peak of 1 TFLOP/s, in 1 s of 2 TFLOP/s, in 4 s of 1 TFLOP/s.
    shares = [mfu_of(each, results, "bf16") for each in results.steps[:3]]
    assert shares == pytest.approx([0.13, 0.13, 0.065])


def test_another_rounds_peak_moves_no_mfu(results: Results) -> None:
    faster = PeakMeasured(round=2, precision="bf16", threads=1, flops=1e15)
    moved = results.model_copy(update={"peaks": (*results.peaks, faster)})
    assert mfu_of(moved.steps[0], moved, "bf16") == mfu_of(results.steps[0], results, "bf16")
    # The control: its own round's does.
    assert mfu_of(moved.steps[1], moved, "bf16") < mfu_of(results.steps[1], results, "bf16")


def test_a_row_has_medians_over_the_rounds(results: Results) -> None:
    peer, ours = summarise(results)
    assert (peer.engine, ours.engine) == ("peft-trainer-bf16", "tsugiki-bf16")
    # 1,000 tokens in 2, 1 and 4 s; ours in a quarter of each.
    assert (peer.tokens_per_cpu_s, peer.tokens_per_cpu_s_range) == (500.0, (250.0, 1000.0))
    assert (ours.tokens_per_cpu_s, ours.tokens_per_cpu_s_range) == (2000.0, (1000.0, 4000.0))
    assert (peer.tokens_per_s, ours.tokens_per_s) == (1000.0, 4000.0)
    assert (peer.mfu, ours.mfu) == pytest.approx((0.13, 0.52))
    assert (peer.padding_ratio, ours.padding_ratio) == (2.5, 1.0)
    assert (peer.others_cores, peer.loss) == (0.0, None)


def test_engines_are_compared_within_rounds(results: Results) -> None:
    # The peer makes 500, 1,000 and 250 tokens a second; ours 1,000, 2,000 and 2,000: 2, 2 and 8 times as many.
    steps = (*results.steps[:3], results.steps[5], results.steps[3], results.steps[3])
    ours = [each.model_copy(update={"round": number}) for number, each in enumerate(steps[3:], start=1)]
    _, row = summarise(results.model_copy(update={"steps": (*steps[:3], *ours)}))
    assert row.against_reference == 2.0
    # Of the medians it would be 2,000 over 500.
    assert row.tokens_per_cpu_s == 2000.0


def test_without_the_reference_nothing_is_compared(results: Results) -> None:
    (row,) = summarise(results.model_copy(update={"steps": results.steps[3:]}))
    assert row.against_reference is None


def test_on_a_gpu_the_clock_on_the_wall_counts(results: Results) -> None:
    on_gpu = results.model_copy(update={"hardware": results.hardware.model_copy(update={"gpu": "Example GPU"})})
    peer, _ = summarise(on_gpu)
    # The one-thread steps take 6, 3 and 12 s by the clock.
    assert peer.tokens_per_cpu_s == pytest.approx(1000 / 6)
    assert peer.mfu == pytest.approx(0.13 / 3)


@pytest.mark.parametrize(("percent", "value"), [(5, 15), (30, 20), (40, 20), (50, 35), (100, 50)])
def test_a_percentile_is_the_nearest_rank(percent: int, value: int) -> None:
    # The worked example of https://en.wikipedia.org/wiki/Percentile#The_nearest-rank_method.
    assert percentile([15, 20, 35, 40, 50], percent) == value


def test_jobs_are_told_by_medians_and_latencies_of_all_rounds(results: Results) -> None:
    peer, cold = summarise_jobs(results)
    assert (peer.seconds, cold.seconds) == (110.0, 22.0)
    # Two adapters in 22 s.
    assert cold.adapters_per_hour == pytest.approx(2 * 3600 / 22)
    # Of 10, 12, 20 and 24 s: half are at most 12, and 95 % are no fewer than all four.
    assert (cold.latency_p50_s, cold.latency_p95_s) == (12.0, 24.0)


def test_what_is_kept_has_the_rows_and_reads_back(results: Results, tmp_path: Path) -> None:
    write(results, tmp_path / "folder" / "found.json")
    kept = (tmp_path / "folder" / "found.json").read_bytes()
    row = json.loads(kept)["rows"][0]
    assert {"engine", "tokens_per_s", "mfu", "peak_bytes", "start_s"} <= row.keys()
    again = Results.model_validate_json(kept)
    assert again.rows == summarise(results)
    assert again.model_copy(update={"rows": (), "jobs_rows": ()}) == results
