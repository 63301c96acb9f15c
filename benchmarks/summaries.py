"""What a table says of the rounds that were measured."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.engines import ENGINES, REFERENCE, Engine
from benchmarks.reports import Step
from benchmarks.results import JobsRow, PeakMeasured, Results, Row, StepsMeasured


def write(results: Results, path: Path) -> None:
    """With the tables' rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    whole = results.model_copy(update={"rows": summarise(results), "jobs_rows": summarise_jobs(results)})
    part.write_text(whole.model_dump_json(indent=1) + "\n")
    part.replace(path)


def summarise(results: Results) -> tuple[Row, ...]:
    """One row for each engine that was measured, in the engines' order."""
    return tuple(
        _row(engine, results) for engine in ENGINES if any(each.engine == engine.name for each in results.steps)
    )


def _row(engine: Engine, results: Results) -> Row:
    measured = [each for each in results.steps if each.engine == engine.name]
    threads = results.hardware.threads
    one_thread = [speed_of(each.steps, results) for each in measured]
    return Row(
        engine=engine.name,
        label=engine.label,
        precision=engine.precision,
        tokens_per_cpu_s=median(one_thread),
        tokens_per_cpu_s_range=(min(one_thread), max(one_thread)),
        against_reference=_against_reference(measured, results),
        tokens_per_s=median(rate_of(each.steps, threads=threads, by_cpu=False) for each in measured),
        mfu=median(mfu_of(each, results, engine.precision) for each in measured),
        padding_ratio=padding_of(step for each in measured for step in each.steps),
        peak_bytes=median(each.peak_bytes for each in measured),
        start_s=median(each.start_s for each in measured),
        others_cores=median(each.load.others_cores for each in measured),
        loss=next((held.loss for held in results.losses if held.engine == engine.name), None),
    )


def _against_reference(measured: Iterable[StepsMeasured], results: Results) -> float | None:
    reference = {each.round: speed_of(each.steps, results) for each in results.steps if each.engine == REFERENCE}
    # A benchmark that was cut off has a round that not every engine took part in.
    ratios = [speed_of(each.steps, results) / reference[each.round] for each in measured if each.round in reference]
    return median(ratios) if ratios else None


def summarise_jobs(results: Results) -> tuple[JobsRow, ...]:
    """One row for each way that was measured, in the order they were first met."""
    return tuple(_jobs_row(way, results) for way in dict.fromkeys(each.way for each in results.jobs))


def _jobs_row(way: str, results: Results) -> JobsRow:
    rounds = [each for each in results.jobs if each.way == way]
    jobs, seconds = len(rounds[0].latencies_s), median(each.seconds for each in rounds)
    latencies_s = [latency for each in rounds for latency in each.latencies_s]
    return JobsRow(
        way=way,
        jobs=jobs,
        documents_a_job=rounds[0].documents_a_job,
        seconds=seconds,
        adapters_per_hour=3600 * jobs / seconds,
        latency_p50_s=percentile(latencies_s, 50),
        latency_p95_s=percentile(latencies_s, 95),
        peak_bytes=median(each.peak_bytes for each in rounds),
    )


def speed_of(steps: Iterable[Step], results: Results) -> float:
    """What engines are compared by: real tokens a processor second on one thread; on a GPU a second."""
    return rate_of(steps, threads=1, by_cpu=results.hardware.gpu is None)


def steady(steps: Iterable[Step], threads: int) -> list[Step]:
    """Without the warm-up."""
    return [step for step in steps if step.threads == threads and not step.warm_up]


def rate_of(steps: Iterable[Step], *, threads: int, by_cpu: bool) -> float:
    """Real tokens a second, of the processor or of the clock on the wall."""
    counted = steady(steps, threads)
    seconds = sum(step.cpu_s if by_cpu else step.wall_s for step in counted)
    return sum(step.tokens for step in counted) / seconds


def mfu_of(measured: StepsMeasured, results: Results, precision: str) -> float:
    """Needed operations a second on one thread (as `speed_of` counts seconds), over the round's peak there."""
    counted = steady(measured.steps, 1)
    needed = sum(results.weights.needed(step.tokens, step.supervised_tokens) for step in counted)
    tokens = sum(step.tokens for step in counted)
    peak = peak_of(results.peaks, measured.round, precision)
    return needed / tokens * speed_of(measured.steps, results) / peak


def peak_of(peaks: Iterable[PeakMeasured], round_number: int, precision: str, threads: int = 1) -> float:
    """The best rate of a round."""
    return max(
        peak.flops for peak in peaks if (peak.round, peak.precision, peak.threads) == (round_number, precision, threads)
    )


def padding_of(steps: Iterable[Step]) -> float:
    """Tokens multiplied for each real one."""
    counted = list(steps)
    return sum(step.computed_tokens for step in counted) / sum(step.tokens for step in counted)


def percentile(values: Iterable[float], percent: int) -> float:
    """The nearest rank: the smallest value that at least so many per cent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
