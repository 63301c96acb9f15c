"""How estimates are shown: a job's before it runs, and beside what it came to."""

from collections.abc import Callable
from typing import Any

from cli.connection import JsonObject
from cli.output import Column, duration, number, share, size, when

Shown = Callable[[Any], str]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _money(estimate: JsonObject) -> str:
    return "-" if estimate["cost"] is None else f"{number(estimate['cost'], digits=2)} {estimate['currency']}"


FIGURES: dict[str, tuple[str, Shown]] = {
    "trained_tokens": ("tokens", _count),
    "seconds": ("time", duration),
    "gpu_seconds": ("device time", duration),
    "peak_memory_bytes": ("memory of a rank", size),
    "adapter_bytes": ("adapter", size),
}


def _figure(name: str) -> Callable[[JsonObject], Any]:
    return lambda item: (item["estimate"] or {}).get(name)


def _figure_column(name: str) -> Column:
    heading, shown = FIGURES[name]
    return Column(heading, lambda item: shown(_figure(name)(item)))


def _because(item: JsonObject) -> list[str]:
    return [f"{reason['message']} (code {reason['code']})" for reason in item["reasons"]]


def _gaps(item: JsonObject) -> list[str]:
    figures: dict[str, list[str]] = {}
    for gap in (item["estimate"] or {}).get("gaps", []):
        figures.setdefault(gap["message"], []).append(gap["figure"])
    return [f"{' and '.join(named)}: {message}" for message, named in figures.items()]


ESTIMATE_DETAILS = (
    Column("status", "status"),
    Column("base model", "model"),
    Column("allowed", "allowed_to_proceed"),
    Column("because", _because),
    Column("steps", _figure("steps")),
    _figure_column("trained_tokens"),
    Column("supervised tokens", lambda item: _count(_figure("supervised_tokens")(item))),
    *(_figure_column(name) for name in ("seconds", "gpu_seconds", "peak_memory_bytes", "adapter_bytes")),
    Column("cost", lambda item: _money(item["estimate"]) if item["estimate"] else "-"),
    Column("place in the queue", _figure("queue_position")),
    Column("starts", lambda item: when(_figure("expected_start")(item))),
    Column("ends", lambda item: when(_figure("expected_finish")(item))),
    Column("measured runs", _figure("measured_runs")),
    Column("not known", _gaps),
)


def _against(name: str) -> Callable[[JsonObject], str | None]:
    """A figure of a job as it was thought, as it came, and how far off that was."""
    _heading, shown = FIGURES[name]

    def beside(job: JsonObject) -> str | None:
        thought, actual = (job.get("estimate") or {}).get(name), job.get("actual") or {}
        if thought is None and name not in actual:
            return None
        told = f"{shown(thought)} estimated"
        if name in actual:
            told += f", {shown(actual[name])} in fact"
        if (error := actual.get("relative_errors", {}).get(name)) is not None:
            told += f" ({error:+.1%})"
        return told

    return beside


ACCURACY_COLUMNS = (
    Column("base model", "model"),
    Column("device", "device"),
    Column("figure", lambda item: FIGURES[item["figure"]][0] if item["figure"] in FIGURES else item["figure"]),
    Column("jobs", "jobs"),
    Column("median error", lambda item: share(item["median_error"])),
    Column("nine of ten below", lambda item: share(item["p90_error"])),
)
ESTIMATED_AND_ACTUAL = tuple(Column(heading, _against(name)) for name, (heading, _shown) in FIGURES.items())


def in_a_line(estimate: JsonObject) -> str:
    """What is known of an estimate, for who is about to submit."""
    parts = [f"{_count(estimate['steps'])} steps"]
    if (tokens := estimate["trained_tokens"]) is not None:
        parts.append(f"{_count(tokens)} tokens")
    if (seconds := estimate["seconds"]) is not None:
        parts.append(f"about {duration(seconds)} on {estimate['device']}")
    if (start := estimate["expected_start"]) is not None:
        parts.append(f"to begin in about {duration(start - estimate['made_at'])}")
    if estimate["cost"] is not None:
        parts.append(_money(estimate))
    return f"Estimate: {', '.join(parts)}."
