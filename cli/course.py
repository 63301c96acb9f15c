"""What a job's events tell of its training, as series over steps."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cli.connection import PAGE_ROWS, Connection, JsonObject, translated

LOSS, VALIDATION_LOSS, LEARNING_RATE, TOKENS_PER_S = "train_loss", "valid_loss", "learning_rate", "tokens_per_s"

Points = list[tuple[int, float]]


@dataclass
class Course:
    """A job's measurements, by name and step."""

    series: dict[str, dict[int, float]] = field(default_factory=dict)
    total_steps: int = 0
    _seen: set[str] = field(default_factory=set)

    def read(self, connection: Connection, job: str) -> None:
        """Read the events that are new. Raises Refused or Unreachable."""
        with translated():
            new = []
            for event in connection.client.fine_tuning.jobs.list_events(job, limit=PAGE_ROWS):
                if event.id in self._seen:
                    break
                new.append(event)
        self._seen |= {event.id for event in new}
        # Newest first from the service. A step that is taken again after a resume counts as it went the last time.
        self._take(event.data for event in reversed(new) if isinstance(event.data, dict))

    def _take(self, measured: Iterable[JsonObject]) -> None:
        for data in measured:
            step = int(data.get("step", 0))
            self.total_steps = max(self.total_steps, step, int(data.get("total_steps", 0)))
            for name, value in data.items():
                if isinstance(value, int | float):
                    self.series.setdefault(name, {})[step] = float(value)

    def points(self, name: str) -> Points:
        """A series in the order of its steps; empty where nothing was told of it."""
        return sorted(self.series.get(name, {}).items())

    def values(self, name: str) -> list[float]:
        """The same without the steps."""
        return [value for _, value in self.points(name)]
