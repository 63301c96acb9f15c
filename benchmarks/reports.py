"""What measured processes tell the benchmark: one JSON file each.

Standard library only, so that measuring adds nothing to what a process takes to start.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

# What a department's folder holds, and where it stands what all departments teach.
TRAIN, EVALUATION, LESSONS = "train.jsonl", "evaluation.jsonl", "lessons.json"


@dataclass(frozen=True)
class Step:
    """One optimiser step. cpu_s is the whole process's; computed_tokens are the tokens multiplied, padding included."""

    threads: int
    warm_up: bool
    wall_s: float
    cpu_s: float
    tokens: int
    computed_tokens: int
    supervised_tokens: int


@dataclass(frozen=True)
class Report:
    """start_s: from the process's creation to its first step. peak_bytes: resident on a CPU, allocated on a GPU."""

    start_s: float
    peak_bytes: int
    steps: list[Step]


@dataclass(frozen=True)
class Turn:
    """One step of every job, apart and together."""

    warm_up: bool
    tokens: int
    apart_cpu_s: float
    apart_wall_s: float
    together_cpu_s: float
    together_wall_s: float


@dataclass(frozen=True)
class Fused:
    """K jobs with so many rows a step each."""

    jobs: int
    rows_a_step: int
    turns: list[Turn]


@dataclass(frozen=True)
class FusedReport:
    """Every K that was asked for."""

    threads: int
    measured: list[Fused]


@dataclass(frozen=True)
class Rate:
    """FLOP/s: on one thread by processor time, on several (and on a GPU) by wall time."""

    precision: str
    threads: int
    flops: float


@dataclass(frozen=True)
class Peak:
    """The best of all shapes, for each format and number of threads."""

    rates: list[Rate]


@dataclass(frozen=True)
class Exactness:
    """Largest absolute differences of a gradient, and the largest gradient they stand beside.

    beside_company: between a run's gradient in a pass with another run, and alone.
    """

    largest_gradient: float
    fast_from_peft: float
    general_from_peft: float
    beside_company: float
    loss_from_peft: float


@dataclass(frozen=True)
class Lesson:
    """What a department teaches its adapter: in so many optimiser steps, at this rate at first."""

    department: str
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Lessons:
    """Of every department."""

    lessons: list[Lesson]


@dataclass(frozen=True)
class Judged:
    """An adapter on held-out rows: nats a supervised token, and for each row whether its likeliest choice is right."""

    adapter: str
    loss: float
    right: list[bool]


@dataclass(frozen=True)
class Judgement:
    """Of every adapter that was asked about, on the same rows."""

    judged: list[Judged]


def write(report: object, path: Path) -> None:
    """Write a dataclass as JSON, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(report)))  # type: ignore[call-overload]
    part.replace(path)


def say(sentence: str) -> None:
    """One line of progress, at once."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
