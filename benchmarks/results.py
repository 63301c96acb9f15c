"""Everything a benchmark measured, and what a table says of it: benchmarks/results/<hardware>.json."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from pydantic import Field

from benchmarks.engines import ENGINES, Engine, named
from benchmarks.flops import DecoderWeights
from benchmarks.machine import ISAS, Hardware, Load
from benchmarks.reports import Exactness, Step
from domain.frozen import Frozen

FOLDER = Path(__file__).resolve().parent / "results"

# What each part of a benchmark finds out, by field of Results.
PART_FIELDS = {
    "steps": ("peaks", "steps", "losses"),
    "fused": ("fused",),
    "ranks": ("ranks",),
    "jobs": ("jobs",),
    "batches": ("batches",),
    "exactness": ("exactness",),
    "quality": ("quality",),
}


class PeakMeasured(Frozen):
    """The best rate of matrix products in one round, FLOP/s of all the threads together."""

    round: int
    precision: str
    threads: int
    flops: float


class StepsMeasured(Frozen):
    """One engine's process in one round."""

    engine: str
    round: int
    start_s: float
    peak_bytes: int
    steps: tuple[Step, ...]
    load: Load


class RanksMeasured(Frozen):
    """`python -m engine train` in one round, by its own progress.jsonl. Medians without the first step."""

    round: int
    ranks: int
    threads_per_rank: int
    tokens_per_s: float
    mfu: float | None
    padding_ratio: float | None
    memory_bytes: int | None
    load: Load


class FusedMeasured(Frozen):
    """K jobs one after another and in one pass, in one round: sums over the steps after the first, on one thread.

    Seconds are the processor's; on a GPU the wall clock's.
    """

    round: int
    jobs: int
    rows_a_step: int
    tokens: int
    apart_s: float
    together_s: float
    load: Load


class JobsMeasured(Frozen):
    """From the first process's start to the last adapter. latencies_s: of each job, all asked for at once."""

    way: str
    round: int
    documents_a_job: int
    seconds: float
    latencies_s: tuple[float, ...]
    peak_bytes: int
    load: Load


class BatchMeasured(Frozen):
    """So many short runs in one plan, process start included."""

    runs: int
    documents_a_run: int
    seconds: float
    peak_bytes: int
    load: Load


class HeldOutLoss(Frozen):
    """An engine's adapter after its steps, measured for all by `python -m engine evaluate`."""

    engine: str
    trained_tokens: int
    loss: float


class QualityRun(Frozen):
    """One department's task trained by one engine from one seed. right: by held-out row, in the rows' order."""

    department: str
    trainer: str
    seed: int
    train_s: float
    loss: float
    right: tuple[bool, ...]


class Quality(Frozen):
    """The paired comparison over all departments and seeds, ours less the peer's, in accuracy.

    low, high: 95 % by bootstrap over held-out rows. time_ratio: the peer's training time over ours, medians.
    """

    runs: tuple[QualityRun, ...]
    ours_accuracy: float
    peer_accuracy: float
    difference: float
    low: float
    high: float
    time_ratio: float


class PartRecord(Frozen):
    """Which commit a part was measured at, and when the benchmark that measured it began."""

    commit: str
    date: str


class Row(Frozen):
    """An engine in the table: medians over the rounds. MFU is of the same round's peak in the same precision.

    tokens_per_cpu_s, on one thread, and mfu go by processor time; on a GPU there is no such time and they go by the
    wall clock.
    """

    engine: str
    label: str
    precision: str
    tokens_per_cpu_s: float
    # The slowest and the fastest round.
    tokens_per_cpu_s_range: tuple[float, float]
    tokens_per_s: float
    mfu: float
    padding_ratio: float
    peak_bytes: float
    start_s: float
    loss: float | None


class TaskChanged(Exception):  # noqa: N818 - named for the fact
    """An earlier benchmark measured something else; the message says what to do."""


class Results(Frozen):
    """One benchmark. What is not measured is empty. commit and date are of whichever part was measured last."""

    hardware: Hardware
    commit: str
    date: str
    versions: dict[str, str]
    documents: dict[str, float]
    weights: DecoderWeights
    parts: dict[str, PartRecord] = Field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    peaks: tuple[PeakMeasured, ...] = ()
    steps: tuple[StepsMeasured, ...] = ()
    losses: tuple[HeldOutLoss, ...] = ()
    fused: tuple[FusedMeasured, ...] = ()
    ranks: tuple[RanksMeasured, ...] = ()
    jobs: tuple[JobsMeasured, ...] = ()
    batches: tuple[BatchMeasured, ...] = ()
    exactness: Exactness | None = None
    quality: Quality | None = None

    @property
    def task(self) -> tuple[object, ...]:
        """What parts must have in common to stand in one file."""
        return self.versions, self.documents, self.weights

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"{self.hardware.slug}.json"

    @property
    def plot_name(self) -> str:
        """The file of its plot, among the docs' images."""
        return f"bench-{self.hardware.slug}.svg"

    def write(self, path: Path) -> None:
        """With its rows, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        whole = self.model_copy(update={"rows": summarise(self)})
        part.write_text(whole.model_dump_json(indent=1) + "\n")
        part.replace(path)


def read_all() -> list[Results]:
    """Every committed benchmark: processors first, by how wide their instructions are."""
    found = [Results.model_validate_json(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]
    widest_first = [*ISAS, "baseline"]
    return sorted(found, key=lambda each: (each.hardware.gpu is not None, widest_first.index(each.hardware.isa)))


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
        tokens_per_s=median(rate_of(each.steps, threads=threads, by_cpu=False) for each in measured),
        mfu=median(mfu_of(each, results, engine.precision) for each in measured),
        padding_ratio=padding_of(step for each in measured for step in each.steps),
        peak_bytes=median(each.peak_bytes for each in measured),
        start_s=median(each.start_s for each in measured),
        loss=next((held.loss for held in results.losses if held.engine == engine.name), None),
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


def is_ours(engine: str) -> bool:
    """Whether a name is one of our engine's."""
    return named(engine).is_ours
