"""Watching jobs learn: what is known of a job, and how it is drawn."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.connection import Connection, JsonObject, Refused, Unreachable, translated
from cli.course import LOSS, TOKENS_PER_S, VALIDATION_LOSS, Course
from cli.output import duration, plain, share, size
from domain.jobs import TERMINAL, JobState

EVERY_S = 1.0
# An API that restarts is waited for; one that stays away so long ends the watching, never the job.
PATIENCE_S = 300
SERVER_ERROR = 500
SPARK = "▁▂▃▄▅▆▇█"
# With these and a short title a job fits a terminal of 80 columns.
SPARK_COLUMNS = 20
BAR_COLUMNS = 20
# Where nobody watches a terminal, a line is written each time so much more of a job is done.
SHARE_A_LINE = 0.1


@dataclass
class Followed:
    """A job as it was last seen, and the course of its training."""

    connection: Connection
    job: JsonObject
    title: str
    course: Course = field(default_factory=Course)
    away_since: float | None = None

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
        """The newest progress, as far as it is known."""
        return self.job["progress"] or {}

    @property
    def losses(self) -> dict[int, float]:
        """Training losses by step."""
        return self.course.series.get(LOSS, {})

    def look(self, now: float) -> None:
        """See what is new. A service that is away is waited for. Raises Refused, or Unreachable after a long while."""
        try:
            with translated():
                job = self.connection.client.fine_tuning.jobs.retrieve(self.job["id"]).to_dict()
            self.course.read(self.connection, self.job["id"])
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status < SERVER_ERROR:
                raise
            self.away_since = now if self.away_since is None else self.away_since
            if now - self.away_since > PATIENCE_S:
                raise
        else:
            # The state last: when it says that the job has ended, every event before has been read.
            self.job, self.away_since = job, None


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
        done = (job.progress.get("step") or 0) / (job.progress.get("total_steps") or 1)
        news = (state_of(job), int(done / SHARE_A_LINE))
        if told.get(job.job["id"]) != news:
            told[job.job["id"]] = news
            console.print(f"{plain(job.title)}: {state_of(job)}  {figures(job)}", markup=False, soft_wrap=True)


def picture(jobs: Sequence[Followed]) -> RenderableType:
    """All jobs, one below the other: a bar, and below it the course of loss and speed beside the newest figures."""
    return Group(*(_job_picture(job) for job in jobs))


def _job_picture(job: Followed) -> RenderableType:
    done, total = job.progress.get("step") or 0, job.progress.get("total_steps")
    # A bar without a total pulses: the job waits.
    bar = ProgressBar(total=total, completed=total or 0 if job.succeeded else done, width=BAR_COLUMNS, pulse=not total)
    where = "  ".join(part for part in (_step(job), _left(job)) if part)
    row = Table.grid(padding=(0, 2))
    row.add_row(Text(plain(job.title), style="bold"), bar, Text(state_of(job), style=_style(job)), where)
    below = Table.grid(padding=(0, 2))
    for course, newest in zip_longest(_courses(job), _newest(job)):
        label, drawn = course or ("", "")
        below.add_row("", Text(label, style="dim"), drawn, newest)
    return Group(row, below) if below.row_count else row


def _courses(job: Followed) -> list[tuple[str, Text]]:
    """What has a course worth seeing, from its first value to its newest."""
    digits = {"loss": (LOSS, 3), "validation": (VALIDATION_LOSS, 3), "tokens/s": (TOKENS_PER_S, 0)}
    drawn = []
    for label, (name, places) in digits.items():
        if values := job.course.values(name):
            first, last = (f"{value:,.{places}f}" for value in (values[0], values[-1]))
            drawn.append((label, Text.assemble(first, " ", (sparkline(values), "cyan"), f" {last}")))
    return drawn


def _newest(job: Followed) -> list[str]:
    """The newest step's other figures, as far as they are known."""
    told = job.progress
    learning, taking, using = [], [], []
    if (rate := told.get("learning_rate")) is not None:
        learning.append(f"rate {rate:.2e}")
    if (norm := told.get("grad_norm")) is not None:
        learning.append(f"gradient {norm:.2f}")
    if (step_s := told.get("step_s")) is not None:
        taking.append(f"step {step_s:.2f} s")
    if (memory_bytes := told.get("memory_bytes")) is not None:
        taking.append(f"memory {size(memory_bytes)}")
    if (mfu := told.get("mfu")) is not None:
        using.append(f"{share(mfu)} of peak")
    if (padding := told.get("padding_ratio")) is not None:
        using.append(f"padding {share(padding - 1)}")
    return [", ".join(parts) for parts in (learning, taking, using) if parts]


def state_of(job: Followed) -> str:
    """The state in a few words: what a running job does, why a queued one waits, and whether the service is away."""
    if job.away_since is not None:
        return "waiting for the service"
    status = str(job.job["status"]).replace("_", " ")
    if status == JobState.QUEUED and (waiting := job.job.get("waiting")):
        return f"{status}: {plain(waiting['message'])}"
    phase = job.progress.get("phase")
    return f"{status}: {plain(phase)}" if phase and status == JobState.RUNNING else status


def _style(job: Followed) -> str:
    if job.away_since is not None:
        return "yellow"
    return {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}.get(
        job.job["status"], "cyan"
    )


def figures(job: Followed) -> str:
    """Step, losses, speed, time left, in one line: what is known of them."""
    told = job.progress
    parts = [_step(job)]
    if (loss := told.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (validation := told.get("validation_loss")) is not None:
        parts.append(f"validation {validation:.3f}")
    if (speed := told.get("tokens_per_s")) is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if (mfu := told.get("mfu")) is not None:
        parts.append(f"{share(mfu)} of peak")
    return "  ".join(part for part in (*parts, _left(job)) if part)


def _step(job: Followed) -> str:
    step = job.progress.get("step")
    return "" if step is None else f"step {step}/{job.progress['total_steps']}"


def _left(job: Followed) -> str:
    left_s = job.progress.get("eta_s")
    return f"{duration(left_s)} left" if left_s and job.job["status"] == JobState.RUNNING else ""


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
