"""`tsugiki erasures`: files erased with what learned from them, by two people."""

from typing import Annotated

import typer

from cli.connection import JsonObject
from cli.output import Column, when
from cli.session import Session
from domain.erasures import RunningJobs

app = typer.Typer(help="Erase a file with all that learned from it: one asks, another one agrees.")

ErasureId = Annotated[str, typer.Argument(metavar="ERASURE_ID", help="As `erasures list` shows it: erasure-….")]


def _versions(item: JsonObject, *, learned: bool) -> list[str]:
    wanted = {"trained_on", "continued_from"}
    found = item["descends"]["versions"]
    return [f"{each['adapter']}@{each['number']}" for each in found if (each["relation"] in wanted) is learned]


COLUMNS = (
    Column("id", "id"),
    Column("file", "file_id"),
    Column("state", "state"),
    Column("versions", lambda item: len(_versions(item, learned=True))),
    Column("requested", lambda item: when(item["requested_at"])),
    Column("by", "requested_by"),
    Column("confirmed by", "confirmed_by"),
    Column("ended", lambda item: when(item["ended_at"])),
)
DETAILS = (
    *COLUMNS[:3],
    Column("reason", "reason"),
    Column("to be erased", lambda item: _versions(item, learned=True)),
    Column("only measured on it", lambda item: _versions(item, learned=False)),
    Column("jobs", lambda item: [f"{each['id']} ({each['state']})" for each in item["descends"]["jobs"]]),
    Column("running jobs", "running_jobs"),
    Column("evaluations", lambda item: item["descends"]["evaluations"]),
    Column("holders", lambda item: [f"{each['holder']}: {each['version']}" for each in item["descends"]["holders"]]),
    Column(
        "servers", lambda item: [f"{each['server']}: {each['version']}" for each in item["descends"]["deployments"]]
    ),
    Column("same bytes", lambda item: item["descends"]["same_bytes"]),
    Column("digest", "digest"),
    *COLUMNS[4:],
    Column("erased", "erased"),
)


@app.command()
def request(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE_ID", help="As `files list` shows it: file-….")],
    *,
    reason: Annotated[str, typer.Option(help="Why: it is kept. Name no person.")],
    running_jobs: Annotated[RunningJobs, typer.Option(help="Cancel jobs that use it, or let them end first.")] = (
        RunningJobs.STOP
    ),
) -> None:
    """Ask for a file to be erased, and show what descends from it. Nothing happens until somebody else agrees."""
    session = Session.of(context)
    body = {"reason": reason, "running_jobs": running_jobs.value}
    session.output.one(session.connection.post("files", file, "erasures", body=body), DETAILS)


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's, newest first."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("erasures"), COLUMNS)


@app.command()
def show(context: typer.Context, erasure: ErasureId) -> None:
    """Show one with all that descends from its file."""
    session = Session.of(context)
    session.output.one(session.connection.get("erasures", erasure), DETAILS)


@app.command()
def confirm(
    context: typer.Context,
    erasure: ErasureId,
    *,
    digest: Annotated[str, typer.Option(help="That of what was shown: `erasures show` prints it.")],
) -> None:
    """Agree, as somebody else, to the erasing of exactly what was shown."""
    session = Session.of(context)
    confirmed = session.connection.post("erasures", erasure, "confirm", body={"digest": digest})
    session.output.said(confirmed, f"{confirmed['file_id']} and what learned from it is being erased.")


@app.command()
def withdraw(context: typer.Context, erasure: ErasureId) -> None:
    """Ask for it no more."""
    session = Session.of(context)
    session.output.said(session.connection.post("erasures", erasure, "withdraw"), f"{erasure} is withdrawn.")
