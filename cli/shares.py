"""`tsugiki shares`: versions for other departments, and those that others share."""

from pathlib import Path
from typing import Annotated

import typer

from cli import pull as pulling
from cli.output import Column, size, when
from cli.pull import AdapterDamaged
from cli.session import NotNamed, Session
from domain.digests import CHUNK_BYTES

app = typer.Typer(help="Versions for other departments: asked for, approved by somebody else, and over by themselves.")

COLUMNS = (
    Column("id", "id"),
    Column("version", "version_id"),
    Column("with", "project_id"),
    Column("status", "status"),
    Column("asked for", lambda item: when(item["created_at"])),
    Column("ends", lambda item: when(item["expires_at"])),
)
RECEIVED = (
    Column("id", "id"),
    Column("version", lambda item: f"{item['adapter']}@{item['number']}"),
    Column("base model", "base_model"),
    Column("size", lambda item: size(item["bytes"])),
    Column("ends", lambda item: when(item["expires_at"])),
)
ShareId = Annotated[str, typer.Argument(metavar="SHARE_ID", help="As `shares list` or `shares received` shows it.")]


@app.command()
def ask(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The version's name as a model, `ft:…`.")],
    department: Annotated[list[str], typer.Option("--with", help="Id of the other department; may be repeated.")],
    days: Annotated[int | None, typer.Option(min=1, help="For how long; as long as is allowed without.")] = None,
) -> None:
    """Ask that other departments may pull an approved version; an approver lets it."""
    session = Session.of(context)
    body: dict[str, object] = {"project_ids": department} | ({"expires_in_days": days} if days else {})
    asked = session.connection.post("fine_tuning", "checkpoints", model, "permissions", body=body)
    session.output.rows(asked["data"], COLUMNS)


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's own shares: what waits for an approver, and what is in force."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("shares"), COLUMNS)


@app.command()
def approve(context: typer.Context, share: ShareId) -> None:
    """Let the other department have the version."""
    session = Session.of(context)
    approved = session.connection.post("shares", share, "approve")
    session.output.said(approved, f"{approved['project_id']} may pull it until {when(approved['expires_at'])}.")


@app.command()
def end(context: typer.Context, model: Annotated[str, typer.Argument(help="`ft:…`.")], share: ShareId) -> None:
    """End a share with the next request, or turn its request down."""
    session = Session.of(context)
    path = ("fine_tuning", "checkpoints", model, "permissions", share)
    session.output.said(session.connection.delete(*path), f"Ended {share}.")


@app.command()
def received(context: typer.Context) -> None:
    """List the versions that other departments share with one's own."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("shared_versions"), RECEIVED)


@app.command()
def pull(
    context: typer.Context,
    share: ShareId,
    out: Annotated[Path, typer.Option(help="The folder to write: missing, or empty.")],
) -> None:
    """Bring a shared version here, every file checked against its digest, as a PEFT folder."""
    session = Session.of(context)
    pulling.check_free(out)
    found = next((each for each in session.connection.pages("shared_versions") if each["id"] == share), None)
    if found is None:
        raise NotNamed(f"Nobody shares {share} with this department.")
    with session.connection.stream("shared_versions", share, "content") as response:
        if response.headers.get("x-adapter-digest") != found["digest"]:
            raise AdapterDamaged("The service sent another version.")
        pulling.receive(response.iter_bytes(CHUNK_BYTES), pulling.manifest_of(found), out)
    session.output.said(found, f"{found['adapter']}@{found['number']} is in {out}: {size(found['bytes'])}, verified.")
