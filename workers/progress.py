"""What a run tells while it trains: read from its file, passed on to its job in measured portions."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from domain.plans import ProgressRecord
from runtime.wiring import Runtime
from services import leases
from services.claims import Claim
from workers.patience import AWAY

log = logging.getLogger(__name__)

EVERY_S = 2.0
# A long run does not fill the database: so many steps of it become events.
MAX_TRAIN_EVENTS = 200
# ProgressRecord's figures that go by the same names in a job's progress and in its events.
FIGURES = (
    "step", "total_steps", "learning_rate", "grad_norm", "trained_tokens", "tokens_per_s", "step_s", "mfu",
    "padding_ratio", "memory_bytes", "eta_s",
)  # fmt: skip

Metrics = dict[str, float | int]
Figure = TypeVar("Figure")


class ProgressFile:
    """A file of ProgressRecords that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read_new(self) -> Iterator[ProgressRecord]:
        """The records of the complete lines since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    yield ProgressRecord.model_validate_json(line)
                except ValidationError:
                    log.warning("a line of %s is no progress record", self._path.name)


class ProgressReport:
    """Passes a run's progress on: the newest line every two seconds, and a bounded number of metrics events."""

    def __init__(self, runtime: Runtime, held: Claim, path: Path) -> None:
        self._runtime, self._held, self._file = runtime, held, ProgressFile(path)
        self._every_steps = math.ceil(held.spec.total_steps / MAX_TRAIN_EVENTS)
        self._newest: dict[str, object] = {}
        self._events: list[Metrics] = []
        self._by_step: dict[int, Metrics] = {}
        self._changed, self._sent_at, self._heard = False, 0.0, False

    def follow(self) -> bool:
        """Read what is new, and pass it on when it is time. Whether there was anything new. Raises LeaseLost."""
        self._read()
        if self._changed and time.monotonic() - self._sent_at >= EVERY_S:
            self.send()
        heard, self._heard = self._heard, False
        return heard

    def metrics_at(self, step: int) -> Metrics:
        """The figures of one step, for its checkpoint. Those of earlier steps are forgotten."""
        # The step was told before its checkpoint was written, but perhaps after we last looked.
        self._read()
        self._by_step = {known: metrics for known, metrics in self._by_step.items() if known >= step}
        return self._by_step.get(step, {})

    def _read(self) -> None:
        for record in self._file.read_new():
            self._heard = True
            self._take(record)

    def _take(self, record: ProgressRecord) -> None:
        self._changed = True
        self._newest |= progress_of(record)
        if (metrics := metrics_of(record)) is None:
            return
        self._by_step[record.step] = self._by_step.get(record.step, {}) | metrics
        if record.kind == "validation" or record.step % self._every_steps == 0 or record.step == record.total_steps:
            self._events.append(metrics)

    def send(self) -> None:
        """Pass on what has not been yet. A database that is away costs lines of a story, never the run."""
        if not self._changed:
            return
        self._sent_at = time.monotonic()
        try:
            with self._runtime.department(self._held.department) as session:
                leases.record_progress(session, self._held, self._newest, self._events)
        except AWAY as error:
            log.warning("job %s: progress could not be recorded (%s)", self._held.job, type(error).__name__)
            return
        self._changed, self._events = False, []


def progress_of(record: ProgressRecord) -> Mapping[str, object]:
    """What a record makes known of how far the job is; the figures of earlier records stand beside it."""
    told: Mapping[str, object | None] = {}
    if record.kind == "train":
        told = _figures(record) | {"loss": record.loss, "token_accuracy": record.token_accuracy}
    elif record.kind == "validation":
        told = {"validation_loss": record.loss, "validation_token_accuracy": record.token_accuracy}
    # With a figure it is an estimate, told while another phase goes on.
    elif record.kind == "phase" and record.memory_bytes is None:
        told = _figures(record) | {"phase": record.message}
    return _known(told)


def metrics_of(record: ProgressRecord) -> Metrics | None:
    """A training step or a validation in the words of the client's checkpoint metrics; None for other records."""
    if record.kind not in {"train", "validation"}:
        return None
    prefix = "train" if record.kind == "train" else "valid"
    losses = {f"{prefix}_loss": record.loss, f"{prefix}_mean_token_accuracy": record.token_accuracy}
    return _known(_figures(record) | losses)


def _figures(record: ProgressRecord) -> dict[str, float | int | None]:
    return {name: getattr(record, name) for name in FIGURES}


def _known(figures: Mapping[str, Figure | None]) -> dict[str, Figure]:
    return {name: value for name, value in figures.items() if value is not None}
