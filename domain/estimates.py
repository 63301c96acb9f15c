"""What a job will come to, said before it runs, and how far off that was: arithmetic on what is known, no I/O.

What is not known is said to be unknown, with the reason; nothing is guessed in its place.
"""

import heapq
import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field

from domain.adapter_sizes import adapter_shapes, file_bytes
from domain.base_models import BaseModelFacts
from domain.frozen import Frozen
from domain.plans import InspectedFile, InspectReport
from domain.refusals import JobTooLarge, PolicyViolation, Refusal
from domain.runs import LoraBias, LoraInit, LoraMethod, RunSpec, TooLong
from domain.usage import amount_of


class EstimateState(StrEnum):
    """Where an estimate is: its rows wait to be counted, they have been, or they cannot be."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class Reason(Frozen):
    """Why a job would be refused, or its rows cannot be counted; with the numbers, for a person."""

    code: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, refusal: Refusal) -> "Reason":
        """What the refusal would have said."""
        return cls(code=refusal.code, message=refusal.message, param=refusal.param)

    @classmethod
    def all_of(cls, refusal: Refusal) -> "list[Reason]":
        """The same, and each of a policy's reasons by itself."""
        if not isinstance(refusal, PolicyViolation):
            return [cls.of(refusal)]
        return [cls(code=refusal.code, message=each["message"], param=each["param"]) for each in refusal.details]


class Unknown(StrEnum):
    """Why a figure is not there, or is only the most it can be."""

    NOT_COUNTED = "not_counted"
    NOT_MEASURED_YET = "not_measured_yet"
    OTHER_METHOD = "measured_on_other_methods"
    BESIDE_OTHERS = "measured_beside_others"
    LAYERS_UNKNOWN = "layers_unknown"
    AT_MOST = "at_most"
    NO_WORKER = "no_worker"
    DEPARTMENT_LIMIT = "department_limit"
    QUEUE_UNKNOWN = "queue_unknown"


class Gap(Frozen):
    """A figure that is missing, or is not what it seems, and why."""

    figure: str
    code: Unknown
    message: str


class Speed(Frozen):
    """What ended runs on one base model, device and number of ranks measured: medians, of memory the most.

    overhead_s: what a job took besides training, from its claim to its end. price_per_gpu_hour: the newest run's.
    same_method: whether the runs were of the kind of method in question; else they were of others. alone: whether each
    had its process to itself.
    """

    device: str
    ranks: Annotated[int, Field(ge=1)]
    runs: Annotated[int, Field(ge=1)]
    tokens_per_s: Annotated[float, Field(gt=0)]
    overhead_s: Annotated[float, Field(ge=0)]
    peak_memory_bytes: Annotated[int, Field(ge=0)]
    price_per_gpu_hour: Annotated[Decimal, Field(ge=0)]
    same_method: bool
    alone: bool


class Queue(Frozen):
    """What stands before a job. Times of None are unknown.

    running_s: for how long each worker that has jobs will have them. ahead_s: how long each job that comes before it
    will take. workers: those that take jobs. is_held_back: the department runs as many jobs as it may.
    """

    running_s: tuple[float | None, ...] = ()
    ahead_s: tuple[float | None, ...] = ()
    workers: Annotated[int, Field(ge=0)] = 0
    is_held_back: bool = False

    @property
    def position(self) -> int:
        """Its place among those that wait: 1 is next."""
        return len(self.ahead_s) + 1

    @property
    def unknown(self) -> Unknown | None:
        """Why it cannot be said when it starts; None where it can."""
        if not self.workers:
            return Unknown.NO_WORKER
        if self.is_held_back:
            return Unknown.DEPARTMENT_LIMIT
        return Unknown.QUEUE_UNKNOWN if None in (*self.running_s, *self.ahead_s) else None

    def starts_in_s(self) -> float | None:
        """Seconds until a worker is free for it, if each takes the next job when it is done; None where unknown."""
        if self.unknown is not None:
            return None
        known = [seconds for seconds in (*self.running_s, *self.ahead_s) if seconds is not None]
        running = known[: len(self.running_s)]
        free_in_s = running + [0.0] * (self.workers - len(running))
        heapq.heapify(free_in_s)
        for seconds in known[len(self.running_s) :]:
            heapq.heapreplace(free_in_s, free_in_s[0] + seconds)
        return free_in_s[0]


class Estimate(Frozen):
    """What a job is thought to come to. Times in seconds; what is None is in `gaps`.

    Tokens are without padding and over all epochs. gpu_seconds: of all ranks together. peak_memory_bytes: the most one
    rank holds. adapter_bytes: of adapter_model.safetensors. device, ranks and measured_runs say what speed it rests on.
    """

    made_at: datetime
    steps: int
    trained_tokens: int | None
    supervised_tokens: int | None
    seconds: float | None
    gpu_seconds: float | None
    peak_memory_bytes: int | None
    adapter_bytes: int | None
    cost: Decimal | None
    currency: str
    queue_position: int | None
    expected_start: datetime | None
    expected_finish: datetime | None
    device: str | None
    ranks: int | None
    measured_runs: int
    gaps: tuple[Gap, ...]

    @classmethod
    def of(
        cls,
        spec: RunSpec,
        inspection: InspectReport | None,
        facts: BaseModelFacts,
        speed: Speed | None,
        *,
        queue: Queue | None,
        currency: str,
        at: datetime,
    ) -> "Estimate":
        """From a job's specification and what its rows, base model, predecessors and queue are known to be.

        Without a queue nothing is said of the job's place in it.
        """
        counted = inspection.files[0] if inspection and inspection.files else None
        tokens = tokens_of(spec, counted) if counted else None
        seconds = speed.overhead_s + tokens.trained / speed.tokens_per_s if speed and tokens else None
        gpu_seconds = seconds * speed.ranks if speed and seconds is not None else None
        shapes = adapter_shapes(spec.lora, facts)
        starts_in_s = queue.starts_in_s() if queue else None
        start = _later(at, starts_in_s)
        return cls(
            made_at=at,
            steps=spec.total_steps,
            trained_tokens=tokens.trained if tokens else None,
            supervised_tokens=tokens.supervised if tokens else None,
            seconds=seconds,
            gpu_seconds=gpu_seconds,
            peak_memory_bytes=speed.peak_memory_bytes if speed else None,
            adapter_bytes=file_bytes(shapes) if shapes else None,
            cost=_cost(gpu_seconds, speed),
            currency=currency,
            queue_position=queue.position if queue else None,
            expected_start=start,
            expected_finish=_later(start, seconds),
            device=speed.device if speed else None,
            ranks=speed.ranks if speed else None,
            measured_runs=speed.runs if speed else 0,
            gaps=tuple(_gaps(spec, speed, queue, has_tokens=tokens is not None, has_shapes=shapes is not None)),
        )


class Tokens(NamedTuple):
    """Of the rows of all steps."""

    trained: int
    supervised: int


def tokens_of(spec: RunSpec, counted: InspectedFile) -> Tokens | None:
    """What `total_steps` steps train on; exact for whole epochs, the rows' mean for a rest. None without any row.

    An epoch takes every row once and its last batch may be smaller, as `engine.batches` has it.
    """
    rows = counted.rows - (counted.too_long_rows if spec.data.too_long is TooLong.SKIP else 0)
    if rows < 1:
        return None
    epochs, rest = divmod(spec.total_steps, math.ceil(rows / spec.batch_size))
    share = epochs + rest * spec.batch_size / rows
    return Tokens(round(counted.tokens * share), round(counted.supervised_tokens * share))


def check_tokens(spec: RunSpec, report: InspectReport, max_training_tokens: int) -> None:
    """Raise JobTooLarge where the training file, over all epochs, has more tokens than the limit."""
    tokens = report.files[0].tokens * spec.n_epochs
    if tokens > max_training_tokens:
        raise JobTooLarge(
            f"The training file has {tokens} tokens in {spec.n_epochs} epochs; the limit is {max_training_tokens}.",
            param="training_file",
        )


def is_general(method: LoraMethod) -> bool:
    """Whether a method is trained on the engine's general path, which is slower: speeds are compared within a kind."""
    return method.use_dora or method.bias is not LoraBias.NONE


def _later(moment: datetime | None, seconds: float | None) -> datetime | None:
    return None if moment is None or seconds is None else moment + timedelta(seconds=seconds)


def _cost(gpu_seconds: float | None, speed: Speed | None) -> Decimal | None:
    if speed is None or gpu_seconds is None:
        return None
    return amount_of(Decimal(gpu_seconds), speed.price_per_gpu_hour)


_COUNTED = ("trained_tokens", "supervised_tokens")
_TIMED = ("seconds", "gpu_seconds", "cost")


def _gaps(
    spec: RunSpec, speed: Speed | None, queue: Queue | None, *, has_tokens: bool, has_shapes: bool
) -> Iterable[Gap]:
    if not has_tokens:
        yield from _gap(_COUNTED if speed is None else (*_COUNTED, *_TIMED), Unknown.NOT_COUNTED)
    if speed is None:
        yield from _gap((*_TIMED, "peak_memory_bytes"), Unknown.NOT_MEASURED_YET)
    elif not speed.same_method:
        yield from _gap(("seconds",), Unknown.OTHER_METHOD)
    elif not speed.alone:
        yield from _gap(("seconds",), Unknown.BESIDE_OTHERS)
    if not has_shapes:
        yield from _gap(("adapter_bytes",), Unknown.LAYERS_UNKNOWN)
    elif spec.lora.init is LoraInit.PISSA:
        yield from _gap(("adapter_bytes",), Unknown.AT_MOST)
    if queue is not None and queue.unknown is not None:
        yield from _gap(("expected_start", "expected_finish"), queue.unknown)
    elif queue is not None and (speed is None or not has_tokens):
        yield from _gap(("expected_finish",), Unknown.NOT_COUNTED if speed else Unknown.NOT_MEASURED_YET)


_SENTENCES = {
    Unknown.NOT_COUNTED: "The rows have not been counted.",
    Unknown.NOT_MEASURED_YET: "No run on this base model has ended here yet.",
    Unknown.OTHER_METHOD: "The runs measured here trained with other methods.",
    Unknown.BESIDE_OTHERS: "The runs measured here shared their process with others: alone a job is faster.",
    Unknown.LAYERS_UNKNOWN: "The base model's files do not say which linear layers it has.",
    Unknown.AT_MOST: "An adapter begun with PiSSA ends with the smallest rank that holds it, up to twice the rank.",
    Unknown.NO_WORKER: "No train worker takes jobs now.",
    Unknown.DEPARTMENT_LIMIT: "The department runs as many jobs as it may: one has to end first.",
    Unknown.QUEUE_UNKNOWN: "It is not known how long the jobs before it will take.",
}


def _gap(figures: Iterable[str], code: Unknown) -> Iterable[Gap]:
    return (Gap(figure=figure, code=code, message=_SENTENCES[code]) for figure in figures)


class Actual(Frozen):
    """What a job that succeeded came to, in the words of its estimate; and what the estimates of others rest on.

    seconds: of all its leases, so without its waits. overhead_s: these less those of training; None where it had
    several leases, which may have trained on the same rows twice.
    general: see `is_general`. alone: whether no other job was trained beside it, which would have slowed it.
    """

    seconds: float
    gpu_seconds: float
    trained_tokens: int
    peak_memory_bytes: int
    adapter_bytes: int
    device: str
    ranks: int
    tokens_per_s: float
    overhead_s: float | None
    price_per_gpu_hour: Decimal
    general: bool
    alone: bool


COMPARED = ("seconds", "gpu_seconds", "trained_tokens", "peak_memory_bytes", "adapter_bytes")


def errors_of(estimate: Estimate, actual: Actual) -> dict[str, float]:
    """Of each figure that was estimated, how far off it was as a share of what came: 0.5 is half too much."""
    pairs = ((name, getattr(estimate, name), getattr(actual, name)) for name in COMPARED)
    return {name: (thought - came) / came for name, thought, came in pairs if thought is not None and came}
