"""progress.jsonl: what the service shows while a run trains. Only rank 0 writes."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from domain.plans import ProgressRecord


class Progress:
    """Appends one record a line, each flushed: a reader may follow the file."""

    def __init__(self, path: Path, run: str, total_steps: int, *, writes: bool) -> None:
        self._run, self._total_steps = run, total_steps
        self._stream = None
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def record(self, kind: str, step: int, **fields: Any) -> None:
        """Append one line; `fields` are ProgressRecord's."""
        if self._stream:
            record = ProgressRecord.model_validate(
                {"kind": kind, "run": self._run, "step": step, "total_steps": self._total_steps, **fields}
            )
            self._stream.write(record.model_dump_json(exclude_none=True) + "\n")
            self._stream.flush()
