"""`tsugiki jobs`: submit, watch, look, pause, resume, cancel."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import files
from cli.connection import PAGE_ROWS, Connection, JsonObject, translated
from cli.course import LOSS, Course
from cli.output import Column, duration, number, plain, share, size, when
from cli.plot import svg
from cli.session import Session
from cli.watch import Followed, complain, follow
from domain.jobs import JobState
from domain.runs import LoraBias, LoraInit, Schedule, TooLong


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


def _left_s(job: JsonObject) -> float | None:
    """A job that waits, or has ended, keeps the estimate it last had."""
    return _told(job, "eta_s") if job["status"] == JobState.RUNNING else None


COLUMNS = (
    Column("id", "id"),
    Column("status", "status"),
    Column("base model", "model"),
    Column("adapter", _adapter),
    Column("step", _step),
    Column("submitted", lambda item: when(item["created_at"])),
)
DETAILS = (
    *COLUMNS,
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
    Column("metrics", "metrics"),
    Column("id", "id"),
)
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="As `jobs list` shows it: ftjob-….")]
PATTERN = "Another rank for the layers whose names end so: layers.0.self_attn.q_proj=16."
Rows = "A file here, which is uploaded first, or the id of an uploaded one."


@app.command()
def submit(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="A registered base model's name.")],
    train: Annotated[str, typer.Option(help=Rows)],
    validation: Annotated[str | None, typer.Option(help=f"{Rows} Its loss is measured on the way.")] = None,
    evaluation: Annotated[str | None, typer.Option(help=f"{Rows} Base and adapter are compared on it.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Names the adapter.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank; 8 when left out.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Scale; twice the rank when left out.")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share of the adapter's inputs left out; 0 when left out.")
    ] = None,
    target_module: Annotated[list[str] | None, typer.Option(help="May be repeated; all linear when left out.")] = None,
    rslora: Annotated[bool | None, typer.Option(help="Scale by alpha / sqrt(rank).", show_default=False)] = None,
    dora: Annotated[
        bool | None,
        typer.Option(help="Train the length of each weight's rows apart from its direction.", show_default=False),
    ] = None,
    init: Annotated[LoraInit | None, typer.Option(help="How the factors begin; kaiming when left out.")] = None,
    bias: Annotated[LoraBias | None, typer.Option(help="Biases of the base that are trained too.")] = None,
    rank_pattern: Annotated[
        list[str] | None, typer.Option(metavar="LAYERS=RANK", help=f"{PATTERN} May be repeated.")
    ] = None,
    alpha_pattern: Annotated[
        list[str] | None, typer.Option(metavar="LAYERS=ALPHA", help="The same for alpha. May be repeated.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows; 3 when left out.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of --epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step; 8 when left out.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak; chosen by the model's width when left out.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Gradients are clipped to this norm; 0 does not clip.")
    ] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="How the learning rate falls after the warm-up.")] = None,
    warmup_ratio: Annotated[float | None, typer.Option(help="Share of the steps in which it rises.")] = None,
    max_seq_len: Annotated[int | None, typer.Option(help="Tokens of the longest row.")] = None,
    too_long: Annotated[TooLong | None, typer.Option(help="What happens to longer rows.")] = None,
    checkpoint_every_steps: Annotated[int | None, typer.Option(help="Steps between points to go on from.")] = None,
    validate_every_steps: Annotated[
        int | None, typer.Option(help="Steps between validations; 0 validates after the last alone.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100; the department's most urgent job is taken first. 0 when left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows and the adapter's first weights.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Then watch it, as `jobs watch` does.")] = False,
) -> None:
    """Train an adapter. What is left out is chosen by the service; `jobs show` tells what it chose."""
    session = Session.of(context)
    connection, shelf = session.connection, files.Shelf(session.connection, session.output)
    lora = {
        "rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": target_module, "use_rslora": rslora,
        "use_dora": dora, "init": init, "bias": bias,
        "rank_pattern": _pattern(rank_pattern, int, option="--rank-pattern"),
        "alpha_pattern": _pattern(alpha_pattern, float, option="--alpha-pattern"),
        "learning_rate": learning_rate, "schedule": schedule, "warmup_ratio": warmup_ratio, "max_steps": max_steps,
        "max_seq_len": max_seq_len, "too_long": too_long, "weight_decay": weight_decay, "clip_norm": clip_norm,
        "checkpoint_every_steps": checkpoint_every_steps, "validate_every_steps": validate_every_steps,
    }  # fmt: skip
    request = {
        "model": model,
        "training_file": shelf.id_of(train, option="--train"),
        "validation_file": validation and shelf.id_of(validation, option="--validation"),
        "suffix": suffix,
        "seed": seed,
        "hyperparameters": _given({"n_epochs": epochs, "batch_size": batch_size}) or None,
    }
    extra = {
        "evaluation_file": evaluation and shelf.id_of(evaluation, option="--evaluation"),
        "lora": _given(lora) or None,
        "priority": priority,
    }
    job = create(connection, request, extra)
    if watch:
        _watch(session, Followed(connection, job, title=_adapter(job)))
    else:
        session.output.said(job, f"Submitted {job['id']}. Watch it: tsugiki jobs watch {job['id']}")


def _pattern(given: Sequence[str] | None, number: Callable[[str], float], *, option: str) -> dict[str, float] | None:
    pattern: dict[str, float] = {}
    for each in given or ():
        layers, _, value = each.rpartition("=")
        try:
            pattern[layers] = number(value)
        except ValueError:
            raise typer.BadParameter("Give layers=number.", param_hint=option) from None
    return pattern or None


def create(connection: Connection, request: JsonObject, extra: JsonObject) -> JsonObject:
    """Submit through the official client; `extra` are Tsugiki's own fields."""
    with translated():
        jobs: Any = connection.client.fine_tuning.jobs
        job: JsonObject = jobs.create(**_given(request), extra_body=_given(extra)).to_dict()
    return job


def _given(fields: JsonObject) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


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
