"""Orders to a plan's runs while it trains: control.jsonl, and SIGTERM, which means `stop` to every run."""

import signal
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from pydantic import ValidationError

from domain.plans import ControlRecord
from engine.distributed import Ranks


class Orders(NamedTuple):
    """What a run has been asked to do; the same on every rank."""

    checkpoint: bool
    stop: bool


class Control:
    """Rank 0 reads the file, any rank may get the signal, and all ranks learn of both at the same step boundary."""

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self._path, self._ranks = path, ranks
        self._offset = 0
        self._asked = set[tuple[str, str]]()
        self._terminated = False

    def listen(self) -> None:
        """From now on SIGTERM is remembered rather than obeyed at once."""
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, _signal: int, _frame: FrameType | None) -> None:
        self._terminated = True

    def orders(self, run: str) -> Orders:
        """The orders for a run since it was last asked about. Collective: call it at step boundaries only."""
        if self._ranks.leads:
            self._read()
        stop = self._terminated or ("stop", run) in self._asked
        checkpoint = ("checkpoint", run) in self._asked
        self._asked.discard(("checkpoint", run))
        any_checkpoint, any_stop = self._ranks.largest(checkpoint, stop)
        return Orders(checkpoint=bool(any_checkpoint), stop=bool(any_stop))

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    record = ControlRecord.model_validate_json(line)
                except ValidationError:
                    # A line of a newer service; what it may mean is no reason to lose the runs.
                    continue
                self._asked.add((record.op, record.run))
