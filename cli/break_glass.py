"""`tsugiki break-glass`: access to a department in an emergency, opened by two people."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="Access to the department of --department in an emergency: two people, four hours at most.")

COLUMNS = (
    Column("id", "id"),
    Column("status", "status"),
    Column("reason", "reason"),
    Column("asked for", lambda item: when(item["created_at"])),
    Column("opened", lambda item: when(item["opened_at"])),
    Column("ends", lambda item: when(item["expires_at"])),
    Column("closed", lambda item: when(item["closed_at"])),
)
GlassId = Annotated[str, typer.Argument(metavar="ID", help="As `break-glass list` shows it: glass-….")]
_PATH = ("organization", "break_glass")


@app.command()
def ask(
    context: typer.Context,
    reason: Annotated[str, typer.Argument(help="Why, for whoever agrees, and for whoever asks later.")],
    minutes: Annotated[int, typer.Option(min=1, max=240, help="For how long, once it is open.")] = 60,
) -> None:
    """Ask for access; the operator's to do. Nothing is open before somebody else agrees."""
    session = Session.of(context)
    asked = session.connection.post(*_PATH, body={"reason": reason, "minutes": minutes})
    session.output.said(asked, f"{asked['id']} waits for another operator, or an admin of the department.")


@app.command("open")
def open_up(context: typer.Context, access: GlassId) -> None:
    """Agree to what another person asked for."""
    session = Session.of(context)
    opened = session.connection.post(*_PATH, access, "open")
    session.output.said(opened, f"{access} is open until {when(opened['expires_at'])}.")


@app.command()
def key(context: typer.Context, access: GlassId) -> None:
    """Make the key of an open access, for who asked for it. It ends with the access."""
    session = Session.of(context)
    made = session.connection.post(*_PATH, access, "key")
    session.output.said(made, made["value"])


@app.command()
def close(context: typer.Context, access: GlassId) -> None:
    """End an access before its time, or take the request back."""
    session = Session.of(context)
    session.output.said(session.connection.post(*_PATH, access, "close"), f"Closed {access}.")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's, newest first."""
    session = Session.of(context)
    session.output.rows(session.connection.pages(*_PATH), COLUMNS)
