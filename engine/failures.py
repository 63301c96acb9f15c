"""How a run may fail, and the file that says so."""

import errno
import sys
import traceback
from pathlib import Path

from domain.plans import FailureKind, RunFailure
from engine.atomic import write_json_once
from engine.distributed import RankLost

OUT_OF_MEMORY_MARKS = ("can't allocate memory", "out of memory", "not enough memory")

# What the department reads. Paths, row content and libraries' texts stay in the process's stderr.
MESSAGES = {
    FailureKind.OUT_OF_MEMORY: "The training process ran out of memory.",
    FailureKind.NO_SPACE: "The worker's disk is full.",
    FailureKind.CRASH: "The training process failed unexpectedly.",
}


class RunFailed(Exception):  # noqa: N818 - named for the fact, like every refusal here
    """A run cannot go on, for a reason every rank has seen: the other runs of the plan can."""

    kind = FailureKind.CRASH

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.message, self.step = message, step


class BadData(RunFailed):
    """A row cannot be trained on or measured."""

    kind = FailureKind.BAD_DATA


class BadCheckpoint(RunFailed):
    """The checkpoint is incomplete, altered, or another run's."""

    kind = FailureKind.BAD_CHECKPOINT


class BadBaseModel(RunFailed):
    """The base model's files are missing or cannot be used."""

    kind = FailureKind.BAD_BASE_MODEL


class NonFiniteLoss(RunFailed):
    """The loss or the gradient stopped being a number."""

    kind = FailureKind.NON_FINITE_LOSS


class OutOfMemory(RunFailed):
    """The run would not fit, as an estimate says before it begins."""

    kind = FailureKind.OUT_OF_MEMORY


def record_failure(folder: Path, error: BaseException) -> None:
    """Write failure.json unless another rank has: the first to fail knows why, its peers only that it is gone."""
    traceback.print_exception(error, file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_once(folder / "failure.json", describe(error))


def describe(error: BaseException) -> RunFailure:
    """The failure as the department may read it."""
    if isinstance(error, RunFailed):
        return RunFailure(kind=error.kind, message=error.message, step=error.step)
    if isinstance(error, RankLost):
        return RunFailure(kind=FailureKind.CRASH, message=str(error))
    kind = _kind_of(error)
    return RunFailure(kind=kind, message=MESSAGES[kind])


def _kind_of(error: BaseException) -> FailureKind:
    if isinstance(error, MemoryError) or any(mark in str(error).lower() for mark in OUT_OF_MEMORY_MARKS):
        return FailureKind.OUT_OF_MEMORY
    # safetensors reports a full disk in words only.
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error):
        return FailureKind.NO_SPACE
    return FailureKind.CRASH
