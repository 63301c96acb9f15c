"""Watching jobs learn: what is known of a job, and how it is drawn."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.connection import PAGE_ROWS, Connection, JsonObject, Refused, Unreachable, translated
from cli.output import duration, number, plain
from domain.jobs import TERMINAL, JobState

EVERY_S = 1.0
# An API that restarts is waited for; one that stays away so long ends the watching, never the job.
PATIENCE_S = 300
SERVER_ERROR = 500
SPARK = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 48
BAR_COLUMNS = 32
# Where nobody watches a terminal, a line is written each time so much more of a job is done.
SHARE_A_LINE = 0.1


@dataclass
class Followed:
    """A job as it was last seen, and its training losses by step."""

    connection: Connection
    job: JsonObject
    title: str
    losses: dict[int, float] = field(default_factory=dict)
    away_since: float | None = None
    _seen: set[str] = field(default_factory=set)

    @property
    def ended(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.job["status"] in TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return bool(self.job["status"] == JobState.SUCCEEDED)

    @property
    def progress(self) -> JsonObject:
        """The newest progress: step, total_steps, loss, tokens_per_s, eta_s, phase."""
        return self.job["progress"] or {}

    def look(self, now: float) -> None:
        """See what is new. A service that is away is waited for. Raises Refused, or Unreachable after a long while."""
        try:
            with translated():
                job = self.connection.client.fine_tuning.jobs.retrieve(self.job["id"]).to_dict()
                self._read_events()
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status < SERVER_ERROR:
                raise
            self.away_since = now if self.away_since is None else self.away_since
            if now - self.away_since > PATIENCE_S:
                raise
        else:
            # The state last: when it says that the job has ended, every event before has been read.
            self.job, self.away_since = job, None

    def _read_events(self) -> None:
        events = self.connection.client.fine_tuning.jobs.list_events(self.job["id"], limit=PAGE_ROWS)
        for event in events:
            if event.id in self._seen:
                return
            self._seen.add(event.id)
            if isinstance(event.data, dict) and "train_loss" in event.data:
                self.losses[int(event.data["step"])] = float(event.data["train_loss"])


def follow(
    jobs: Sequence[Followed],
    console: Console,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Watch until every job has ended: a live picture on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            _until_ended(jobs, lambda: live.update(picture(jobs), refresh=True), clock, sleep)
    else:
        told: dict[str, tuple[str, int]] = {}
        _until_ended(jobs, lambda: _tell(jobs, console, told), clock, sleep)


def _until_ended(
    jobs: Sequence[Followed], show: Callable[[], None], clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    while True:
        for job in jobs:
            if not job.ended or not job.losses:
                job.look(clock())
        show()
        if all(job.ended for job in jobs):
            return
        sleep(EVERY_S)


def _tell(jobs: Sequence[Followed], console: Console, told: dict[str, tuple[str, int]]) -> None:
    for job in jobs:
        done = job.progress.get("step", 0) / max(1, job.progress.get("total_steps", 1))
        news = (state_of(job), int(done / SHARE_A_LINE))
        if told.get(job.job["id"]) != news:
            told[job.job["id"]] = news
            console.print(f"{plain(job.title)}: {state_of(job)}  {figures(job)}", markup=False, soft_wrap=True)


def picture(jobs: Sequence[Followed]) -> RenderableType:
    """All jobs, one below the other: a bar with figures, and the loss as it fell."""
    return Group(*(_job_picture(job) for job in jobs))


def _job_picture(job: Followed) -> RenderableType:
    done, total = job.progress.get("step", 0), job.progress.get("total_steps") or None
    row = Table.grid(padding=(0, 2))
    # A bar without a total pulses: the job waits.
    bar = ProgressBar(total=total, completed=total or 0 if job.succeeded else done, width=BAR_COLUMNS, pulse=not total)
    row.add_row(Text(plain(job.title), style="bold"), bar, Text(state_of(job), style=_style(job)), figures(job))
    if not job.losses:
        return row
    losses = [job.losses[step] for step in sorted(job.losses)]
    line = Text.assemble(("  loss ", "dim"), number(losses[0]), " ", (sparkline(losses), "cyan"), f" {losses[-1]:.3f}")
    return Group(row, line)


def state_of(job: Followed) -> str:
    """The state in a word or two: what a running job does, and whether the service is away."""
    if job.away_since is not None:
        return "waiting for the service"
    status = str(job.job["status"]).replace("_", " ")
    phase = job.progress.get("phase")
    return f"{status}: {plain(phase)}" if phase and status == JobState.RUNNING else status


def _style(job: Followed) -> str:
    if job.away_since is not None:
        return "yellow"
    return {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}.get(
        job.job["status"], "cyan"
    )


def figures(job: Followed) -> str:
    """Step, loss, tokens a second, time left: what is known of them."""
    progress = job.progress
    if "step" not in progress:
        return ""
    parts = [f"step {progress['step']}/{progress['total_steps']}"]
    if (loss := progress.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (speed := progress.get("tokens_per_s")) is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if (left_s := progress.get("eta_s")) and job.job["status"] == JobState.RUNNING:
        parts.append(f"{duration(left_s)} left")
    return "  ".join(parts)


def sparkline(values: Sequence[float], columns: int = SPARK_COLUMNS) -> str:
    """The values' course in one line of blocks; where there are more than columns, each block is a mean."""
    width = min(columns, len(values))
    means = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        means.append(sum(part) / len(part))
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(SPARK[round((value - low) / span * (len(SPARK) - 1))] for value in means)


def complain(job: Followed) -> None:
    """Why a job did not succeed, on standard error."""
    error = job.job.get("error") or {}
    reason = f": {plain(error['message'])} (code {plain(error['code'])})" if error else ""
    where = f" at {plain(error['param'])}" if error.get("param") else ""
    sys.stderr.write(f"error: {plain(job.title)} {plain(job.job['status'])}{where}{reason}\n")
