"""Orders to a plan's runs while it trains: control.jsonl, and SIGTERM, which means `stop` to every run."""

import signal
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from domain.plans import ControlRecord


class Control:
    """What this rank has heard: rank 0 reads the file, any rank may get the signal."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.terminated = False

    def listen(self) -> None:
        """From now on SIGTERM is remembered rather than obeyed at once."""
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, _signal: int, _frame: FrameType | None) -> None:
        self.terminated = True

    def read(self) -> list[str]:
        """The orders that have come since the last call, one JSON record each."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            lines = [line for line in stream if line.endswith(b"\n")]
        self._offset += sum(len(line) for line in lines)
        return [line.decode(errors="replace") for line in lines]


def parse_order(line: str) -> ControlRecord | None:
    """One order; None for a line of a newer service, which is no reason to lose the runs."""
    try:
        return ControlRecord.model_validate_json(line)
    except ValidationError:
        return None
