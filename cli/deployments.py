"""`tsugiki deployments`: what inference servers have loaded."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="Versions that inference servers say that they have.")

COLUMNS = (
    Column("server", "server"),
    Column("version", lambda item: f"{item['adapter']}@{item['version']}"),
    Column("state", "state"),
    Column("since", lambda item: when(item["since"])),
    Column("said", lambda item: when(item["reported_at"])),
    Column("version is", "version_state"),
    Column("must unload", "must_unload"),
)


class State(StrEnum):
    """What a server can say of a version."""

    LOADED = "loaded"
    UNLOADED = "unloaded"


@app.command("list")
def list_all(
    context: typer.Context,
    *,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter's.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
) -> None:
    """List what servers last said, newest first."""
    session = Session.of(context)
    query = {"adapter": adapter, "state": state.value if state else None}
    session.output.rows(session.connection.pages("deployments", query=query), COLUMNS)


@app.command()
def report(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION", help="A number or an alias after the @.")],
    *,
    server: Annotated[str, typer.Option(help="The server's own name.")],
    state: Annotated[State, typer.Option(help="Whether it has the version now.")] = State.LOADED,
) -> None:
    """Say for a server that it has a version, or no more."""
    session = Session.of(context)
    adapter, _, reference = version.partition("@")
    body = {"adapter": adapter, "version": reference or "latest", "server": server, "state": state.value}
    said = session.connection.post("deployments", body=body)
    told = f"{server} has {said['state']} {said['adapter']}@{said['version']}."
    session.output.said(
        said, f"{told} It must be unloaded: it is {said['version_state']}." if said["must_unload"] else told
    )
