"""`tsugiki workers`: the operator's view of the processes that train."""

from typing import Annotated

import typer

from cli.connection import JsonObject
from cli.output import Column, number, size, when
from cli.session import Session

app = typer.Typer(help="Train workers: look at them, drain them, let them go; the operator's to do.")

WorkerId = Annotated[str, typer.Argument(metavar="WORKER_ID", help="As `workers list` shows it: worker-….")]
Now = Annotated[bool, typer.Option("--now", help="Give back the job it has, from a checkpoint.")]


def _calibration(worker: JsonObject, figure: str) -> float | None:
    found: float | None = (worker["calibration"] or {}).get(figure)
    return found


COLUMNS = (
    Column("id", "id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("busy", "busy"),
    Column("device", "device_name"),
    Column("ranks", "ranks"),
    Column("memory", lambda item: size(item["memory_bytes"])),
    Column("seen", lambda item: when(item["seen_at"])),
)
DETAILS = (
    *COLUMNS,
    Column("draining", "draining"),
    Column("retiring", "retiring"),
    Column("host", "host"),
    Column("computes on", "device"),
    Column("threads a rank", "threads_per_rank"),
    Column("precision", "precision"),
    Column("quantisation", "quantisation"),
    Column("versions", "versions"),
    Column("token budget", lambda item: _calibration(item, "token_budget")),
    Column("tokens/s of a rank", lambda item: number(_calibration(item, "tokens_per_s"), digits=0)),
    Column("registered", lambda item: when(item["registered_at"])),
    Column("retired", lambda item: when(item["retired_at"])),
)


@app.command("list")
def list_all(
    context: typer.Context,
    *,
    retired: Annotated[bool, typer.Option("--retired", help="Also those that have ended.")] = False,
) -> None:
    """List the train workers, newest first."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("workers", query={"retired": "true" if retired else None}), COLUMNS)


@app.command()
def show(context: typer.Context, worker: WorkerId) -> None:
    """Show one worker: what it can, and what it is at."""
    session = Session.of(context)
    session.output.one(session.connection.get("workers", worker), DETAILS)


@app.command()
def drain(context: typer.Context, worker: WorkerId, *, now: Now = False) -> None:
    """Give a worker no more jobs; it finishes the one it has."""
    session = Session.of(context)
    asked = session.connection.post("workers", worker, "drain", query=_query(now=now))
    session.output.said(asked, f"{worker} takes no more jobs; {_left(asked, now=now)}.")


@app.command()
def undrain(context: typer.Context, worker: WorkerId) -> None:
    """Let a drained worker take jobs again."""
    session = Session.of(context)
    session.output.said(session.connection.post("workers", worker, "undrain"), f"{worker} takes jobs again.")


@app.command()
def retire(context: typer.Context, worker: WorkerId, *, now: Now = False) -> None:
    """Drain a worker, and end its process when it holds no job any more."""
    session = Session.of(context)
    asked = session.connection.post("workers", worker, "retire", query=_query(now=now))
    session.output.said(asked, f"{worker} takes no more jobs, and ends; {_left(asked, now=now)}.")


def _query(*, now: bool) -> dict[str, str | None]:
    return {"now": "true" if now else None}


def _left(worker: JsonObject, *, now: bool) -> str:
    if not worker["busy"]:
        return "it holds none"
    return "it gives the one that it holds back" if now else "it finishes the one that it holds first"
