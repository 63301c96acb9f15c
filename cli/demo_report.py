"""What the demonstration measured: for a program, for a person, and to paste."""

import os
import platform
from pathlib import Path

from rich.table import Table

from cli.connection import JsonObject
from cli.output import duration, share, size
from cli.watch import Followed
from domain.frozen import Frozen

MIN_GAIN = 0.3

HEADINGS = ("department", "accuracy before → after", "trained in", "tokens/s", "adapter / base", "trained parameters")


class DepartmentResult(Frozen):
    """One department's job. Losses in nats a supervised token; accuracy on held-out rows, by likelihood of choices."""

    name: str
    model: str
    job_id: str
    base_accuracy: float
    adapter_accuracy: float
    gain: float
    evaluation_rows: int
    labels: int
    # (step, loss) of the training steps that the service told of.
    losses: tuple[tuple[int, float], ...]
    first_loss: float
    final_loss: float
    validation_loss: float | None
    train_s: float
    evaluation_s: float
    tokens_per_s: float
    adapter_bytes: int
    base_model_bytes: int
    trainable_parameters: int
    total_parameters: int


class DemoReport(Frozen):
    """demo-report.json."""

    departments: tuple[DepartmentResult, ...]
    hardware: dict[str, str | int | float]
    versions: dict[str, str]
    seconds_total: float


def result_of(
    job: Followed, version: JsonObject, base_model: JsonObject, *, name: str, labels: int
) -> DepartmentResult:
    """From the finished job, the version it made, and the base model below it."""
    evaluation, metrics = version["evaluation"][0], version["metrics"]
    before, after = evaluation["base"]["accuracy"], evaluation["adapter"]["accuracy"]
    return DepartmentResult(
        name=name,
        model=version["model"],
        job_id=version["job_id"],
        base_accuracy=before,
        adapter_accuracy=after,
        gain=round(after - before, 6),
        evaluation_rows=evaluation["adapter"]["rows"],
        labels=labels,
        losses=tuple(sorted(job.losses.items())),
        first_loss=job.losses[min(job.losses)],
        final_loss=metrics["final_train_loss"],
        validation_loss=metrics["validation_loss"],
        train_s=metrics["train_s"],
        evaluation_s=evaluation["base"]["seconds"] + evaluation["adapter"]["seconds"],
        tokens_per_s=metrics["tokens_per_s"],
        adapter_bytes=version["bytes"],
        base_model_bytes=base_model["facts"]["bytes"],
        trainable_parameters=metrics["trainable_parameters"],
        total_parameters=metrics["total_parameters"],
    )


def table(results: tuple[DepartmentResult, ...]) -> Table:
    """For the terminal: a column a department, which fits 80 of its columns."""
    cells = [_cells(result) for result in results]
    drawn = Table(HEADINGS[0], *(column[0] for column in cells), header_style="bold")
    for row in zip(HEADINGS, *cells, strict=True):
        if row[0] != HEADINGS[0]:
            drawn.add_row(*row)
    return drawn


def markdown(results: tuple[DepartmentResult, ...]) -> str:
    """To paste."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(result) for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: DepartmentResult) -> tuple[str, ...]:
    part = result.trainable_parameters / result.total_parameters
    return (
        result.name,
        f"{share(result.base_accuracy)} → {share(result.adapter_accuracy)}",
        duration(result.train_s),
        f"{result.tokens_per_s:,.0f}",
        f"{size(result.adapter_bytes)} / {size(result.base_model_bytes)}",
        f"{result.trainable_parameters / 1e6:.2f} M of {result.total_parameters / 1e6:.1f} M ({part:.1%})",
    )


def hardware() -> dict[str, str | int | float]:
    """What it ran on: processors this process may use, their name, memory."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write(report: DemoReport, path: Path) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(report.model_dump_json(indent=2) + "\n")
    part.replace(path)
