"""`tsugiki jobs`: estimate, submit, watch, look, pause, resume, cancel."""

import itertools
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.connection import PAGE_ROWS, Connection, JsonObject, Refused, translated
from cli.course import LOSS, Course
from cli.estimates import ACCURACY_COLUMNS, ESTIMATE_DETAILS, ESTIMATED_AND_ACTUAL, in_a_line
from cli.job_options import Described, given, with_job_options
from cli.output import Column, duration, number, plain, share, size, when
from cli.plot import svg
from cli.session import Session
from cli.watch import EVERY_S, Followed, complain, follow
from domain.estimates import EstimateState
from domain.jobs import JobState


class WatchingEnded(Exception):  # noqa: N818 - named for the fact, as refusals are
    """Ctrl-C while a job was watched. The message is the job's id."""


class NotMeasured(Exception):  # noqa: N818
    """There is nothing to draw of a job yet."""


app = typer.Typer(help="Jobs: each trains one adapter version.")


def _adapter(job: JsonObject) -> str:
    made = job["adapter"]
    return f"{made['name']}@{made['version']}" if made else job["user_provided_suffix"] or "default"


def _step(job: JsonObject) -> str | None:
    step = _told(job, "step")
    return None if step is None else f"{step}/{_told(job, 'total_steps')}"


def _told(job: JsonObject, figure: str) -> Any:
    return (job["progress"] or {}).get(figure)


def _waits(job: JsonObject, field: str) -> Any:
    return (job.get("waiting") or {}).get(field)


def _left_s(job: JsonObject) -> float | None:
    """A job that waits, or has ended, keeps the estimate it last had."""
    return _told(job, "eta_s") if job["status"] == JobState.RUNNING else None


COLUMNS = (
    Column("id", "id"),
    Column("status", "status"),
    Column("base model", "model"),
    Column("adapter", _adapter),
    Column("step", _step),
    Column("waits for", lambda item: _waits(item, "code")),
    Column("submitted", lambda item: when(item["created_at"])),
)
DETAILS = (
    *COLUMNS,
    Column("why it waits", lambda item: _waits(item, "message")),
    Column("finished", lambda item: when(item["finished_at"])),
    Column("fine-tuned model", "fine_tuned_model"),
    Column("lora", "lora"),
    Column("priority", "priority"),
    Column("seed", "seed"),
    Column("training file", "training_file"),
    Column("validation file", "validation_file"),
    Column("evaluation file", "evaluation_file"),
    Column("trained tokens", "trained_tokens"),
    Column("loss", lambda item: number(_told(item, "loss"))),
    Column("validation loss", lambda item: number(_told(item, "validation_loss"))),
    Column("tokens/s", lambda item: number(_told(item, "tokens_per_s"), digits=0)),
    Column("of peak", lambda item: share(_told(item, "mfu"))),
    Column("memory", lambda item: size(_told(item, "memory_bytes"))),
    Column("time left", lambda item: duration(_left_s(item))),
    *ESTIMATED_AND_ACTUAL,
    Column("error", "error"),
)
EVENT_COLUMNS = (
    Column("when", lambda item: when(item["created_at"])),
    Column("level", "level"),
    Column("message", "message"),
    Column("data", "data"),
)
CHECKPOINT_COLUMNS = (
    Column("step", "step_number"),
    Column("when", lambda item: when(item["created_at"])),
    Column("kept until", lambda item: "erased" if item["erased_at"] else when(item["expires_at"])),
    Column("metrics", "metrics"),
    Column("id", "id"),
)
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="As `jobs list` shows it: ftjob-….")]


@app.command()
@with_job_options
def submit(
    context: typer.Context,
    described: Described,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Then watch it, as `jobs watch` does.")] = False,
) -> None:
    """Train an adapter. What is left out is chosen by the service; `jobs show` tells what it chose."""
    session = Session.of(context)
    if not session.output.as_json and (line := _quick_estimate(session.connection, described)):
        session.output.story.print(plain(line), markup=False, soft_wrap=True)
    job = create(session.connection, described.request, described.extra)
    if watch:
        _watch(session, Followed(session.connection, job, title=_adapter(job)))
    else:
        session.output.said(job, f"Submitted {job['id']}. Watch it: tsugiki jobs watch {job['id']}")


@app.command()
@with_job_options
def estimate(context: typer.Context, described: Described) -> None:
    """Say what a job would come to, and what would refuse it. Files named here are uploaded; nothing is submitted."""
    session = Session.of(context)
    found = session.connection.post("estimates", body=described.body)
    while found["status"] == EstimateState.PENDING:
        time.sleep(EVERY_S)
        found = session.connection.get("estimates", found["id"])
    session.output.one(found, ESTIMATE_DETAILS)


@app.command()
def accuracy(context: typer.Context) -> None:
    """Show how far off estimates were, over the ended jobs of all departments."""
    session = Session.of(context)
    session.output.rows(session.connection.get("estimates", "accuracy")["data"], ACCURACY_COLUMNS)


def _quick_estimate(connection: Connection, described: Described) -> str | None:
    """A job's estimate in one line, where the service has it at hand. Whether the job may be is the submit's to say."""
    try:
        found = connection.post("estimates", body=described.body)
    except Refused:
        return None
    return in_a_line(found["estimate"]) if found["status"] == EstimateState.READY and found["estimate"] else None


def create(connection: Connection, request: JsonObject, extra: JsonObject) -> JsonObject:
    """Submit through the official client; `extra` are Tsugiki's own fields."""
    with translated():
        jobs: Any = connection.client.fine_tuning.jobs
        job: JsonObject = jobs.create(**given(request), extra_body=given(extra)).to_dict()
    return job


@app.command("list")
def list_all(
    context: typer.Context, limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20
) -> None:
    """List the department's jobs, newest first."""
    session = Session.of(context)
    with translated():
        found = itertools.islice(session.connection.client.fine_tuning.jobs.list(limit=min(limit, PAGE_ROWS)), limit)
        session.output.rows([job.to_dict() for job in found], COLUMNS)


@app.command()
def show(context: typer.Context, job: JobId) -> None:
    """Show one job: its settings in force and how far it is."""
    session = Session.of(context)
    session.output.one(_retrieve(session.connection, job), DETAILS)


@app.command()
def watch(context: typer.Context, job: JobId) -> None:
    """Watch a job until it ends. The exit status is 0 only if it succeeded."""
    session = Session.of(context)
    found = _retrieve(session.connection, job)
    _watch(session, Followed(session.connection, found, title=_adapter(found)))


@app.command()
def plot(
    context: typer.Context,
    job: JobId,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; JOB_ID.svg here when left out.")
    ] = None,
) -> None:
    """Draw how a job learns: losses, learning rate and speed over its steps, as an SVG."""
    session = Session.of(context)
    found, course, path = _retrieve(session.connection, job), Course(), out or Path(f"{job}.svg")
    course.read(session.connection, job)
    if not course.points(LOSS):
        raise NotMeasured(f"The job is {plain(found['status'])} and has told of no step yet.")
    status = plain(found["status"]).replace("_", " ")
    subtitle = f"{job} · {status} · step {max(course.series[LOSS])} of {course.total_steps}"
    path.write_text(svg(course, title=f"{_adapter(found)} on {found['model']}", subtitle=subtitle), encoding="utf-8")
    session.output.said({"job": job, "path": str(path)}, f"Drew {path}.")


@app.command()
def cancel(context: typer.Context, job: JobId) -> None:
    """Cancel a job: a waiting one at once, a running one at its worker's next heartbeat."""
    session = Session.of(context)
    with translated():
        cancelled = session.connection.client.fine_tuning.jobs.cancel(job).to_dict()
    session.output.said(cancelled, f"{job} is {plain(cancelled['status'])}; cancellation is requested.")


@app.command()
def pause(context: typer.Context, job: JobId) -> None:
    """Pause a job: a waiting one at once, a running one once its worker has written a checkpoint."""
    session = Session.of(context)
    with translated():
        paused = session.connection.client.fine_tuning.jobs.pause(job).to_dict()
    session.output.said(paused, f"{job} is {plain(paused['status'])}; a pause is requested.")


@app.command()
def resume(context: typer.Context, job: JobId) -> None:
    """Resume a paused job from its newest checkpoint."""
    session = Session.of(context)
    with translated():
        resumed = session.connection.client.fine_tuning.jobs.resume(job).to_dict()
    session.output.said(resumed, f"{job} is {plain(resumed['status'])}.")


@app.command()
def events(
    context: typer.Context,
    job: JobId,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 50,
) -> None:
    """Read a job's story, oldest first."""
    session = Session.of(context)
    with translated():
        newest = session.connection.client.fine_tuning.jobs.list_events(job, limit=min(limit, PAGE_ROWS))
        found = [event.to_dict() for event in itertools.islice(newest, limit)]
    session.output.rows(found[::-1], EVENT_COLUMNS)


@app.command()
def checkpoints(context: typer.Context, job: JobId) -> None:
    """List the points from which a job can go on, newest first."""
    session = Session.of(context)
    with translated():
        found = session.connection.client.fine_tuning.jobs.checkpoints.list(job, limit=PAGE_ROWS)
        session.output.rows([checkpoint.to_dict() for checkpoint in found], CHECKPOINT_COLUMNS)


def _retrieve(connection: Connection, job: str) -> JsonObject:
    with translated():
        return connection.client.fine_tuning.jobs.retrieve(job).to_dict()


def _watch(session: Session, followed: Followed) -> None:
    # With --json the story goes to standard error, so that standard output is the job alone.
    try:
        follow([followed], session.output.story)
    except KeyboardInterrupt:
        raise WatchingEnded(followed.job["id"]) from None
    if session.output.as_json:
        session.output.json(followed.job)
    if not followed.succeeded:
        complain(followed)
        raise typer.Exit(1)
