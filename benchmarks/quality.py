"""A department's own task, by our engine and by peft with the HF Trainer: is it learned as well, and how much sooner.

The demonstration's two departments, with its rows, steps and settings. Both trainers get rank, alpha, layers, AdamW,
its rate and its fall, clipping, batch size and number of steps alike; from each seed both start from weights and take
rows in an order of their own. Each computes as its users start it: the peer in one process on all threads, ours by a
rank a thread, which is the service's default on a processor.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, median

from benchmarks.bench import Bench, read, told
from benchmarks.contract import Job, compute
from benchmarks.documents import TOKENS
from benchmarks.engines import JOB_OURS, JOB_PEER, named
from benchmarks.process import Finished
from benchmarks.reports import EVALUATION, LESSONS, TRAIN, Judgement, Lesson, Lessons, say
from benchmarks.results import Quality, QualityRun
from domain.runs import Optimiser, Schedule

RESAMPLES = 10_000
SEED = 0


def measure_quality(bench: Bench) -> None:
    """Train every department's task from every seed, each trainer the first in turn; compare after each pair."""
    _, folder = bench.run("benchmarks.departments", f"--base-model={bench.base_model}")
    lessons = read(Lessons, folder / LESSONS).lessons
    runs: list[QualityRun] = []
    for turn, seed in enumerate(bench.sizes.quality_seeds):
        for place, lesson in enumerate(lessons):
            trainers = (_by_peer, _by_ours) if (turn + place) % 2 == 0 else (_by_ours, _by_peer)
            trained = dict(train(bench, lesson, folder / lesson.department, seed) for train in trainers)
            runs += _judge(bench, lesson, folder / lesson.department, seed=seed, trained=trained)
            bench.put(quality=compared(runs))


Trained = tuple[Finished, Path]


def _by_peer(bench: Bench, lesson: Lesson, folder: Path, seed: int) -> tuple[str, Trained]:
    engine = named(JOB_PEER)
    finished, out = bench.run(
        engine.module,
        *bench.arguments(engine, f"{bench.threads}:{bench.sizes.quality_steps or lesson.steps}"),
        f"--documents={folder / TOKENS}",
        f"--count={len((folder / TRAIN).read_text().splitlines())}",
        f"--seed={seed}",
        "--shuffle",
        "--schedule=linear",
        f"--learning-rate={lesson.learning_rate}",
    )
    return JOB_PEER, (finished, out / "adapter")


def _by_ours(bench: Bench, lesson: Lesson, folder: Path, seed: int) -> tuple[str, Trained]:
    job = Job(
        lesson.department,
        (folder / TRAIN).read_text().splitlines(keepends=True),
        lesson.batch_size,
        total_steps=bench.sizes.quality_steps or lesson.steps,
        seed=seed,
        optimiser=Optimiser(learning_rate=lesson.learning_rate, schedule=Schedule.LINEAR),
    )
    out = bench.new_folder()
    ranks = 1 if bench.device == "cuda" else bench.threads
    finished, _ = bench.workshop.train(out, [job], compute(ranks=ranks, threads=bench.threads // ranks))
    return JOB_OURS, (finished, out / "out" / job.name / "adapter")


def _judge(bench: Bench, lesson: Lesson, folder: Path, *, seed: int, trained: dict[str, Trained]) -> list[QualityRun]:
    limit = () if bench.sizes.quality_rows is None else (f"--count={bench.sizes.quality_rows}",)
    _, out = bench.run(
        "benchmarks.judge",
        f"--base-model={bench.base_model}",
        f"--rows={folder / EVALUATION}",
        f"--device={bench.device}",
        *limit,
        "--adapters",
        *(str(adapter) for _, adapter in trained.values()),
    )
    judged = {each.adapter: each for each in read(Judgement, out / "judgement.json").judged}
    runs = []
    for trainer, (finished, adapter) in trained.items():
        found = judged[str(adapter)]
        runs.append(
            QualityRun(
                department=lesson.department,
                trainer=trainer,
                seed=seed,
                train_s=finished.wall_s,
                loss=found.loss,
                right=tuple(found.right),
            )
        )
        say(f"{lesson.department}, seed {seed}, {trainer}: {fmean(found.right):.1%} right; {told(finished)}")
    return runs


def compared(runs: Sequence[QualityRun]) -> Quality:
    """Ours less the peer's, paired by department, seed and held-out row."""
    by_trainer = {
        trainer: {(run.department, run.seed): run for run in runs if run.trainer == trainer}
        for trainer in (JOB_OURS, JOB_PEER)
    }
    ours, peers = by_trainer[JOB_OURS], by_trainer[JOB_PEER]
    differences: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for (department, seed), run in ours.items():
        pairs = zip(run.right, peers[department, seed].right, strict=True)
        differences[department].append(tuple(own - theirs for own, theirs in pairs))
    # A row that several seeds answered is one row: its answers are not independent of each other.
    of_rows = [[fmean(row) for row in zip(*seeds, strict=True)] for seeds in differences.values()]
    low, high = _interval(of_rows)
    return Quality(
        runs=tuple(runs),
        ours_accuracy=_accuracy(ours.values()),
        peer_accuracy=_accuracy(peers.values()),
        difference=fmean(row for rows in of_rows for row in rows),
        low=low,
        high=high,
        time_ratio=median(peers[pair].train_s / run.train_s for pair, run in ours.items()),
    )


def _accuracy(runs: Iterable[QualityRun]) -> float:
    return fmean(right for run in runs for right in run.right)


def _interval(of_rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    """What 95 % of the means lie within when rows are drawn again, each department's among its own."""
    random = Random(SEED)  # noqa: S311 - the same interval for the same runs
    drawn = sorted(
        fmean(row for rows in of_rows for row in random.choices(rows, k=len(rows))) for _ in range(RESAMPLES)
    )
    outside = RESAMPLES // 40
    return drawn[outside], drawn[-1 - outside]
