"""Everything a benchmark measured: benchmarks/results/<hardware>.json."""

from pathlib import Path

from pydantic import Field

from benchmarks.flops import DecoderWeights
from benchmarks.machine import ISAS, Hardware, Load
from benchmarks.reports import Exactness, Step
from domain.frozen import Frozen

FOLDER = Path(__file__).resolve().parent / "results"

# What each part of a benchmark finds out, by field of Results.
PART_FIELDS = {
    "steps": ("peaks", "steps"),
    "losses": ("losses",),
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
    # By how much it is faster than the reference engine in the same round; None where that one is not measured.
    against_reference: float | None
    tokens_per_s: float
    mfu: float
    padding_ratio: float
    peak_bytes: float
    start_s: float
    # How many cores others used meanwhile.
    others_cores: float
    # Held-out, after the last round's steps.
    loss: float | None


class JobsRow(Frozen):
    """A way to do a department's jobs, in the table: medians over the rounds, latencies over all jobs of all rounds."""

    way: str
    jobs: int
    documents_a_job: int
    seconds: float
    adapters_per_hour: float
    latency_p50_s: float
    latency_p95_s: float
    peak_bytes: float


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
    jobs_rows: tuple[JobsRow, ...] = ()
    peaks: tuple[PeakMeasured, ...] = ()
    steps: tuple[StepsMeasured, ...] = ()
    losses: tuple[HeldOutLoss, ...] = ()
    fused: tuple[FusedMeasured, ...] = ()
    ranks: tuple[RanksMeasured, ...] = ()
    jobs: tuple[JobsMeasured, ...] = ()
    batches: tuple[BatchMeasured, ...] = ()
    exactness: Exactness | None = None
    quality: Quality | None = None

    def keeping(self, others: "Results") -> "Results":
        """With all parts of an earlier benchmark. Raises TaskChanged where that one measured something else."""
        if _task(self) != _task(others):
            raise TaskChanged("There are parts measured with other packages or documents: measure all of them again.")
        kept = {name: getattr(others, name) for names in PART_FIELDS.values() for name in names}
        return self.model_copy(update={**kept, "parts": others.parts})

    def beginning(self, part: str, record: PartRecord) -> "Results":
        """Without what an earlier benchmark found of a part."""
        empty = {name: Results.model_fields[name].default for name in PART_FIELDS[part]}
        return self.model_copy(update={**empty, "parts": {**self.parts, part: record}})

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"{self.hardware.slug}.json"

    @property
    def plot_name(self) -> str:
        """The file of its plot, among the docs' images."""
        return f"bench-{self.hardware.slug}.svg"


def _task(results: Results) -> tuple[object, ...]:
    """What parts must have in common to stand in one file."""
    return results.hardware, results.versions, results.documents, results.weights


def read_all() -> list[Results]:
    """Every committed benchmark: processors first, by how wide their instructions are."""
    found = [Results.model_validate_json(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]
    widest_first = [*ISAS, "baseline"]
    return sorted(found, key=lambda each: (each.hardware.gpu is not None, widest_first.index(each.hardware.isa)))
