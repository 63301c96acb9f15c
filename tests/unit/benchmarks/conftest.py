"""A benchmark built by hand, in round numbers: expected cells are derived from them beside each test.

The model has 50 M weights in its linear layers and 25 M in its head: a token needs 4 x 50 M = 200 MFLOP, a supervised
one 100 M more. Every step has 1,000 tokens, 600 of them supervised: 260 GFLOP a step, 260 MFLOP a token.
"""

from collections.abc import Sequence

import pytest

from benchmarks.flops import DecoderWeights
from benchmarks.machine import Hardware, Load
from benchmarks.reports import Step
from benchmarks.results import (
    FusedMeasured,
    JobsMeasured,
    PartRecord,
    PeakMeasured,
    RanksMeasured,
    Results,
    StepsMeasured,
)

QUIET = Load(before=0.5, after=0.5, others_cores=0.0, withheld_cores=0.0)
BUSY = Load(before=2.5, after=2.5, others_cores=1.5, withheld_cores=0.25)
# FLOP/s of bf16 on one thread, by round.
PEAKS = (1e12, 2e12, 1e12)


def step(threads: int, *, cpu_s: float, wall_s: float, computed: int, warm_up: bool = False) -> Step:
    return Step(
        threads=threads,
        warm_up=warm_up,
        wall_s=wall_s,
        cpu_s=cpu_s,
        tokens=1000,
        computed_tokens=computed,
        supervised_tokens=600,
    )


def measured(engine: str, seconds: Sequence[float], **process: float) -> list[StepsMeasured]:
    """A round for each number of processor seconds; on two threads a step takes half of them by the clock."""
    found = []
    for number, cpu_s in enumerate(seconds, start=1):
        computed = int(process["computed"])
        steps = (
            step(1, cpu_s=1000.0, wall_s=1000.0, computed=computed, warm_up=True),
            step(1, cpu_s=cpu_s, wall_s=3 * cpu_s, computed=computed),
            step(2, cpu_s=1000.0, wall_s=1000.0, computed=computed, warm_up=True),
            step(2, cpu_s=cpu_s, wall_s=cpu_s / 2, computed=computed),
        )
        found.append(
            StepsMeasured(
                engine=engine,
                round=number,
                start_s=process["start_s"],
                peak_bytes=int(process["peak_bytes"]),
                steps=steps,
                load=BUSY if number == 1 else QUIET,
            )
        )
    return found


def jobs(way: str, number: int, *latencies_s: float) -> JobsMeasured:
    return JobsMeasured(
        way=way,
        round=number,
        documents_a_job=48,
        seconds=max(latencies_s),
        latencies_s=latencies_s,
        peak_bytes=2_000_000_000,
        load=QUIET,
    )


def fused(number: int, apart_s: float, together_s: float) -> FusedMeasured:
    return FusedMeasured(
        round=number, jobs=4, rows_a_step=1, tokens=100, apart_s=apart_s, together_s=together_s, load=QUIET
    )


@pytest.fixture
def results() -> Results:
    """Three rounds of two engines; peers take 2, 1 and 4 processor seconds a step, ours a quarter of that."""
    return Results(
        hardware=Hardware(cpu="Example 9000 8-Core Processor", isa="avx2", threads=2),
        commit="abc1234",
        date="2026-01-02T03:04+00:00",
        versions={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"},
        documents={
            "documents": 1600.0,
            "mean_tokens": 75.0,
            "median_tokens": 60.0,
            "shortest_tokens": 23.0,
            "longest_tokens": 200.0,
            "supervised_share": 0.6,
        },
        weights=DecoderWeights(linear=50_000_000, head=25_000_000),
        parts={
            "steps": PartRecord(commit="abc1234", date="2026-01-02T03:04+00:00"),
            "jobs": PartRecord(commit="def5678", date="2026-01-03T03:04+00:00"),
        },
        peaks=tuple(
            PeakMeasured(round=number, precision="bf16", threads=1, flops=flops)
            for number, flops in enumerate(PEAKS, start=1)
        ),
        steps=(
            *measured("peft-trainer-bf16", (2.0, 1.0, 4.0), computed=2500, start_s=5.0, peak_bytes=4_000_000_000),
            *measured("tsugiki-bf16", (0.5, 0.25, 1.0), computed=1000, start_s=2.0, peak_bytes=1_500_000_000),
        ),
        fused=(fused(1, 2.0, 1.0), fused(2, 1.0, 1.0)),
        ranks=(
            RanksMeasured(
                round=1,
                ranks=2,
                threads_per_rank=1,
                tokens_per_s=400.0,
                mfu=None,
                padding_ratio=1.0,
                memory_bytes=1_000_000_000,
                load=QUIET,
            ),
        ),
        jobs=(
            jobs("peft-trainer-bf16", 1, 50.0, 100.0),
            jobs("peft-trainer-bf16", 2, 60.0, 120.0),
            jobs("tsugiki-cold", 1, 10.0, 20.0),
            jobs("tsugiki-cold", 2, 12.0, 24.0),
        ),
    )
