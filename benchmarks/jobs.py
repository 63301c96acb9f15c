"""Parts that watch the engine from outside, as its users start it: ranks, a department's jobs, runs in one plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from benchmarks import contract
from benchmarks.bench import Bench, told
from benchmarks.contract import Job, compute
from benchmarks.engines import JOB_PEER, named
from benchmarks.process import Finished
from benchmarks.reports import say
from benchmarks.results import BatchMeasured, JobsMeasured, RanksMeasured
from benchmarks.speed import rows_of
from benchmarks.summaries import peak_of
from domain.plans import ProgressRecord

# Runs of a batch are short: what is measured is what one more of them costs.
BATCH_DOCUMENTS, BATCH_ROWS_A_STEP = 8, 4
# One process of two threads and two ranks of one: the same rows a step, more than a pass of one rank holds.
RANKS_ROWS_A_STEP = 24


def measure_ranks(bench: Bench) -> None:
    """The same job by one rank of all threads, and by a rank a thread."""
    if bench.device == "cuda" or bench.threads == 1:
        return
    job = Job("job", bench.rows[: bench.sizes.rank_steps * RANKS_ROWS_A_STEP], batch_size=RANKS_ROWS_A_STEP)
    for number in range(1, bench.sizes.part_rounds + 1):
        for ranks in (1, bench.threads) if number % 2 else (bench.threads, 1):
            _ranks(bench, job, number, ranks)


def _ranks(bench: Bench, job: Job, number: int, ranks: int) -> None:
    threads = bench.threads // ranks
    peak = peak_of(bench.peaks(number), number, "bf16") * threads
    folder = bench.new_folder()
    finished, _ = bench.workshop.train(folder, [job], compute(ranks=ranks, threads=threads, peak_flops=peak))
    records = contract.training_steps(folder, job.name)
    measured = RanksMeasured(
        round=number,
        ranks=ranks,
        threads_per_rank=threads,
        tokens_per_s=median(_speeds(records)),
        mfu=records[-1].mfu,
        padding_ratio=records[-1].padding_ratio,
        memory_bytes=records[-1].memory_bytes,
        load=finished.load,
    )
    bench.add(ranks=[measured])
    say(f"round {number}: {ranks} ranks of {threads} threads: {measured.tokens_per_s:,.0f} tokens/s; {told(finished)}")


def _speeds(records: Sequence[ProgressRecord]) -> list[float]:
    """Tokens a second of each step after the first, which warms up."""
    return [
        ((after.trained_tokens or 0) - (before.trained_tokens or 0)) / after.step_s
        for before, after in pairwise(records)
        if after.step_s
    ]


@dataclass(frozen=True)
class JobsTook:
    """Seconds to the last adapter, and to each job's own. `largest` is the process that held the most."""

    seconds: float
    latencies_s: Sequence[float]
    largest: Finished


def measure_jobs(bench: Bench) -> None:
    """A department asks for several adapters at once, and waits for all of them."""
    count = bench.sizes.documents_a_job
    jobs = [Job(f"job-{n}", bench.rows[n * count : (n + 1) * count]) for n in range(bench.sizes.jobs)]
    for number in range(1, bench.sizes.part_rounds + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            took = WAYS[way](bench, jobs)
            measured = JobsMeasured(
                way=way,
                round=number,
                documents_a_job=count,
                seconds=took.seconds,
                latencies_s=tuple(took.latencies_s),
                peak_bytes=took.largest.peak_bytes,
                load=took.largest.load,
            )
            bench.add(jobs=[measured])
            say(f"round {number}: {len(jobs)} jobs, {way}: {took.seconds:.1f} s; {told(took.largest)}")


def _by_peer(bench: Bench, jobs: Sequence[Job]) -> JobsTook:
    engine, first, processes = named(JOB_PEER), 0, []
    for job in jobs:
        count = len(job.rows)
        phases = f"{bench.threads}:{-(-count // engine.rows_a_step)}"
        arguments = [*bench.arguments(engine, phases), *rows_of(bench, engine, first, count)]
        processes.append(bench.run(engine.module, *arguments)[0])
        first += count
    return _one_after_another(processes)


def _cold(bench: Bench, jobs: Sequence[Job]) -> JobsTook:
    how = compute(threads=bench.threads)
    return _one_after_another([bench.workshop.train(bench.new_folder(), [job], how)[0] for job in jobs])


def _one_after_another(processes: Sequence[Finished]) -> JobsTook:
    """A process a job: each job waits for those before it."""
    ends = list(accumulate(process.wall_s for process in processes))
    return JobsTook(ends[-1], ends, max(processes, key=lambda process: process.peak_bytes))


def _in_one_process(bench: Bench, jobs: Sequence[Job]) -> JobsTook:
    finished, latencies_s = bench.workshop.train(bench.new_folder(), jobs, compute(threads=bench.threads))
    return JobsTook(finished.wall_s, latencies_s, finished)


def _warm(bench: Bench, jobs: Sequence[Job]) -> JobsTook:
    return JobsTook(*bench.workshop.train_warm(bench.new_folder(), jobs, compute(threads=bench.threads)))


WAYS: dict[str, Callable[[Bench, Sequence[Job]], JobsTook]] = {
    JOB_PEER: _by_peer,
    "tsugiki-cold": _cold,
    "tsugiki-batch": _in_one_process,
    "tsugiki-warm": _warm,
}


def measure_batches(bench: Bench) -> None:
    """Seconds and memory as the runs of one plan grow in number."""
    for runs in bench.sizes.batches:
        jobs = [
            Job(f"run-{n}", bench.rows[n * BATCH_DOCUMENTS : (n + 1) * BATCH_DOCUMENTS], BATCH_ROWS_A_STEP)
            for n in range(runs)
        ]
        finished, _ = bench.workshop.train(bench.new_folder(), jobs, compute(threads=bench.threads))
        measured = BatchMeasured(
            runs=runs,
            documents_a_run=BATCH_DOCUMENTS,
            seconds=finished.wall_s,
            peak_bytes=finished.peak_bytes,
            load=finished.load,
        )
        bench.add(batches=[measured])
        say(f"{runs} runs in one plan: {measured.seconds:.1f} s, {measured.peak_bytes / 1e9:.2f} GB; {told(finished)}")
