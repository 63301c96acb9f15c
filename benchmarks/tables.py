"""What pages say of a benchmark, in Markdown: the block of docs/performance.md and that of README.md."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import TypeVar

from benchmarks.engines import ENGINES, JOB_PEER, named
from benchmarks.results import JobsRow, Quality, Results, Row
from benchmarks.summaries import summarise, summarise_jobs

NOT_MEASURED = "not measured"
NOTHING = "Nothing is measured yet."
PLOT = "Tokens per CPU second by engine, and seconds over the number of runs"

Item = TypeVar("Item")

WAYS = {
    JOB_PEER: "peft + HF Trainer bf16, a process a job",
    "tsugiki-cold": "Tsugiki, a process a job",
    "tsugiki-batch": "Tsugiki, all jobs in one process, started for them",
    "tsugiki-warm": "Tsugiki, all jobs in one process that waited for work",
}
# What a reader of the README wants to compare.
SUMMARY = (
    "peft-trainer-fp32",
    "peft-trainer-bf16",
    "trl-sft-bf16",
    "trl-sft-packing-bf16",
    "tsugiki-fp32",
    "tsugiki-bf16",
)


def whole(found: Sequence[Results]) -> str:
    """The block of docs/performance.md: every benchmark there is."""
    sections = [_section(results) for results in found] or [NOTHING]
    if not any(results.hardware.gpu for results in found):
        sections.append("### GPUs\n\nEvery row: not measured.")
    return "\n\n".join(sections)


def summary(results: Results) -> str:
    """The block of the README."""
    rows = {row.engine: row for row in summarise(results)}
    compared = table(
        ("engine", _speed_heading(results), "against peft + Trainer bf16", "share of the peak", "start, s", "memory"),
        [
            (
                row.label,
                f"{row.tokens_per_cpu_s:,.0f}",
                _times(row, digits=1),
                f"{row.mfu:.0%}",
                f"{row.start_s:.1f}",
                _size(row.peak_bytes),
            )
            for row in (rows[name] for name in SUMMARY if name in rows)
        ],
    )
    return "\n\n".join(filter(None, (_measured_on(results), compared, _jobs_sentence(results))))


def _jobs_sentence(results: Results) -> str:
    rows = {row.way: row for row in summarise_jobs(results)}
    if not WAYS.keys() <= rows.keys():
        return ""
    peer, cold, batch, warm = (rows[way] for way in WAYS)

    def told(row: JobsRow) -> str:
        return f"{row.seconds:.0f} s ({peer.seconds / row.seconds:.1f} x)"

    return (
        f"{peer.jobs} jobs of {peer.documents_a_job} documents, from nothing running to the last adapter: "
        f"{peer.seconds:.0f} s by a peft process a job, {told(cold)} by a Tsugiki process a job, {told(batch)} by one "
        f"for all, and {told(warm)} by one that waited for work with the base model loaded."
    )


def _measured_on(results: Results) -> str:
    of, rounds = results.versions, len({each.round for each in results.steps})
    packages = ", ".join(f"{name} {of[name]}" for name in ("torch", "transformers", "peft", "trl") if name in of)
    counted = {0: "", 1: "; one round"}.get(rounds, f"; medians of {rounds} alternating rounds")
    return f"{results.hardware.label}; {packages}{counted}."


def _section(results: Results) -> str:
    parts = [f"### {results.hardware.label}", _measured_on(results), _documents(results)]
    parts.append(f"![{PLOT}](images/{results.plot_name})")
    told = (_engines, _peaks, _fused, _ranks, _jobs, _batches, _exact, _quality, _load, _commits)
    return "\n\n".join([*parts, *filter(None, (each(results) for each in told))])


def _speed_heading(results: Results) -> str:
    return "tokens/s" if results.hardware.gpu else "tokens per CPU second, one thread"


def _documents(results: Results) -> str:
    about = results.documents
    lengths = f"{about['shortest_tokens']:.0f}-{about['longest_tokens']:.0f} tokens"
    return (
        f"{about['documents']:,.0f} documents of {lengths}, mean {about['mean_tokens']:.0f}, "
        f"median {about['median_tokens']:.0f}; {about['supervised_share']:.0%} of the tokens are supervised."
    )


def _engines(results: Results) -> str:
    rows = {row.engine: row for row in summarise(results)}
    headings = (
        "engine",
        _speed_heading(results),
        "slowest-fastest round",
        "against peft + Trainer bf16",
        "MFU",
        f"tokens/s, {results.hardware.threads} threads",
        "computed/real tokens",
        "peak memory",
        "start, s",
        "held-out loss",
    )
    if not rows:
        return ""
    lines = []
    for engine in ENGINES:
        row = rows.get(engine.name)
        lines.append(_engine(row) if row else (engine.label, *(NOT_MEASURED,) * (len(headings) - 1)))
    lines.append(_ceiling(results, columns=len(headings)))
    return table(headings, lines)


def _engine(row: Row) -> tuple[str, ...]:
    low, high = row.tokens_per_cpu_s_range
    return (
        row.label,
        f"{row.tokens_per_cpu_s:,.0f}",
        f"{low:,.0f}-{high:,.0f}",
        _times(row, digits=2),
        f"{row.mfu:.1%}",
        f"{row.tokens_per_s:,.0f}",
        f"{row.padding_ratio:.2f}",
        _size(row.peak_bytes),
        f"{row.start_s:.1f}",
        NOT_MEASURED if row.loss is None else f"{row.loss:.3f}",
    )


def _times(row: Row, *, digits: int) -> str:
    return NOT_MEASURED if row.against_reference is None else f"{row.against_reference:.{digits}f} x"


def _ceiling(results: Results, *, columns: int) -> tuple[str, ...]:
    """What the peak would come to if nothing but the needed products took time."""
    needed = _needed_a_token(results)
    speeds = [peak.flops / needed for peak in results.peaks if (peak.precision, peak.threads) == ("bf16", 1)]
    cells = (
        "nothing but the needed products, at the bf16 peak",
        f"{median(speeds):,.0f}",
        f"{min(speeds):,.0f}-{max(speeds):,.0f}",
        "",
        "100.0%",
    )
    return *cells, *("",) * (columns - len(cells))


def _needed_a_token(results: Results) -> float:
    """FLOP, over what all engines trained on."""
    steps = [step for each in results.steps for step in each.steps]
    needed = sum(results.weights.needed(step.tokens, step.supervised_tokens) for step in steps)
    return needed / sum(step.tokens for step in steps)


def _peaks(results: Results) -> str:
    told = []
    for precision, threads in sorted({(peak.precision, peak.threads) for peak in results.peaks}):
        rates = [peak.flops / 1e9 for peak in results.peaks if (peak.precision, peak.threads) == (precision, threads)]
        told.append(
            f"{precision} on {threads} {median(rates):,.0f} GFLOP/s ({min(rates):,.0f}-{max(rates):,.0f} by round)"
        )
    return f"The peak of matrix products, by number format and threads: {'; '.join(told)}." if told else ""


def _fused(results: Results) -> str:
    shapes = sorted({(each.rows_a_step, each.jobs) for each in results.fused})
    lines = []
    for rows_a_step, jobs in shapes:
        rounds = [each for each in results.fused if (each.rows_a_step, each.jobs) == (rows_a_step, jobs)]
        apart = median(each.tokens / each.apart_s for each in rounds)
        together = median(each.tokens / each.together_s for each in rounds)
        faster = [each.apart_s / each.together_s for each in rounds]
        lines.append(
            (
                f"{jobs}",
                f"{rows_a_step}",
                f"{apart:,.0f}",
                f"{together:,.0f}",
                f"{median(faster):.2f} x ({min(faster):.2f}-{max(faster):.2f})",
            )
        )
    unit = _speed_heading(results)
    headings = ("jobs", "rows a step of each", f"one after another: {unit}", "in one pass", "gain (range)")
    return table(headings, lines) if lines else ""


def _ranks(results: Results) -> str:
    lines = []
    for ranks, threads in sorted({(each.ranks, each.threads_per_rank) for each in results.ranks}):
        rounds = [each for each in results.ranks if each.ranks == ranks]
        lines.append(
            (
                f"{ranks} x {threads}",
                f"{median(each.tokens_per_s for each in rounds):,.0f}",
                _median(rounds, lambda each: each.mfu, "{:.1%}".format),
                _median(rounds, lambda each: each.padding_ratio, "{:.2f}".format),
                _median(rounds, lambda each: each.memory_bytes, _size),
            )
        )
    headings = ("`engine train`, ranks x threads", "tokens/s", "MFU", "computed/real tokens", "memory of a rank")
    return table(headings, lines) if lines else ""


def _median(rounds: Iterable[Item], value: Callable[[Item], float | None], told: Callable[[float], str]) -> str:
    known = [found for each in rounds if (found := value(each)) is not None]
    return told(median(known)) if known else NOT_MEASURED


def _jobs(results: Results) -> str:
    if not results.jobs:
        return ""
    rows = {row.way: row for row in summarise_jobs(results)}
    peer, missing = rows.get(JOB_PEER), (NOT_MEASURED,) * 6
    lines = [_way(label, rows[way], peer) if way in rows else (label, *missing) for way, label in WAYS.items()]
    headings = (
        f"{len(results.jobs[0].latencies_s)} jobs of {results.jobs[0].documents_a_job} documents",
        "seconds",
        "against peft",
        "adapters an hour",
        "latency p50, s",
        "latency p95, s",
        "peak memory",
    )
    return table(headings, lines)


def _way(label: str, row: JobsRow, peer: JobsRow | None) -> tuple[str, ...]:
    return (
        label,
        f"{row.seconds:.1f}",
        f"{peer.seconds / row.seconds:.1f} x" if peer else NOT_MEASURED,
        f"{row.adapters_per_hour:,.0f}",
        f"{row.latency_p50_s:.1f}",
        f"{row.latency_p95_s:.1f}",
        _size(row.peak_bytes),
    )


def _batches(results: Results) -> str:
    lines = [
        (f"{each.runs}", f"{each.seconds:.1f}", f"{each.seconds / each.runs:.2f}", _size(each.peak_bytes))
        for each in results.batches
    ]
    if not lines:
        return ""
    what = f"runs of {results.batches[0].documents_a_run} documents in one plan"
    return table((what, "seconds", "a run", "peak memory"), lines)


def _exact(results: Results) -> str:
    exact = results.exactness
    if exact is None:
        return ""
    return (
        f"In fp32, beside a largest gradient of {exact.largest_gradient:.2g}: max |dgrad| against peft's autograd "
        f"{exact.fast_from_peft:.1e} (fast path) and {exact.general_from_peft:.1e} (general path); of a run in company "
        f"against the same run alone {exact.beside_company:.1e}; loss against peft's {exact.loss_from_peft:.1e}."
    )


def _quality(results: Results) -> str:
    return quality_table(results.quality) if results.quality else ""


def quality_table(quality: Quality) -> str:
    """A department's tasks by both engines."""
    lines = []
    for department, trainer in sorted({(run.department, run.trainer) for run in quality.runs}):
        runs = [run for run in quality.runs if (run.department, run.trainer) == (department, trainer)]
        accuracies = [sum(run.right) / len(run.right) for run in runs]
        lines.append(
            (
                department,
                named(trainer).label,
                f"{len(runs)}",
                f"{sum(accuracies) / len(accuracies):.1%} ({min(accuracies):.1%}-{max(accuracies):.1%})",
                f"{median(run.loss for run in runs):.4f}",
                f"{median(run.train_s for run in runs):.0f}",
            )
        )
    headings = ("department", "trained by", "seeds", "held-out accuracy (range)", "held-out loss", "seconds")
    interval = f"{_points(quality.low)} to {_points(quality.high)}"
    return (
        f"{table(headings, lines)}\n\n"
        f"Tsugiki less peft + HF Trainer, paired by seed and row: {_points(quality.difference)} points of accuracy, "
        f"95 % interval {interval}; peft takes {quality.time_ratio:.1f} times as long."
    )


def _points(share: float) -> str:
    return f"{share * 100:+.1f}"


def _load(results: Results) -> str:
    loads = [
        *(each.load for each in results.steps),
        *(each.load for each in results.fused),
        *(each.load for each in results.ranks),
        *(each.load for each in results.jobs),
        *(each.load for each in results.batches),
    ]
    if not loads:
        return ""
    others, withheld = [load.others_cores for load in loads], [load.withheld_cores for load in loads]
    before = [load.before for load in loads]
    return (
        f"While it ran, other processes of the machine used {median(others):.1f} cores (median; up to "
        f"{max(others):.1f}), the hypervisor withheld {median(withheld):.1f} (up to {max(withheld):.1f}), and the load "
        f"before a measurement was {median(before):.1f} (up to {max(before):.1f})."
    )


def _commits(results: Results) -> str:
    """Which part was measured when, and at which commit."""
    parts: dict[str, list[str]] = {}
    for part, record in results.parts.items():
        parts.setdefault(f"{record.date.partition('T')[0]} at `{record.commit}`", []).append(part)
    told = "; ".join(f"{when}: {', '.join(names)}" for when, names in parts.items())
    return f"Measured on {told}." if told else ""


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
