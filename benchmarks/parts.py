"""The parts of a benchmark, in their order."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.jobs import measure_batches, measure_jobs, measure_ranks
from benchmarks.quality import measure_quality
from benchmarks.speed import measure_exactness, measure_fused, measure_losses, measure_steps

PARTS: dict[str, Callable[[Bench], None]] = {
    "steps": measure_steps,
    "losses": measure_losses,
    "fused": measure_fused,
    "ranks": measure_ranks,
    "jobs": measure_jobs,
    "batches": measure_batches,
    "exactness": measure_exactness,
    "quality": measure_quality,
}
