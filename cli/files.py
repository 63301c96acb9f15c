"""`tsugiki files`: rows to train, validate and evaluate on."""

from pathlib import Path
from typing import Annotated

import typer

from cli.connection import Connection, JsonObject, translated
from cli.output import Column, size, when
from cli.session import Session
from domain.ids import IdKind

app = typer.Typer(help="Files of rows, one conversation a line.")

COLUMNS = (
    Column("id", "id"),
    Column("filename", "filename"),
    Column("size", lambda item: size(item["bytes"])),
    Column("purpose", "purpose"),
    Column("status", "status"),
    Column("created", lambda item: when(item["created_at"])),
)
FileId = Annotated[str, typer.Argument(metavar="FILE_ID")]


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    purpose: Annotated[str, typer.Option()] = "fine-tune",
) -> None:
    """Upload a JSON Lines file; it is checked while it arrives."""
    session = Session.of(context)
    uploaded = send(session.connection, path, purpose=purpose)
    session.output.said(uploaded, f"Uploaded {path.name}: {uploaded['id']}")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's files, newest first."""
    session = Session.of(context)
    with translated():
        found = [file.to_dict() for file in session.connection.client.files.list(limit=1000)]
    session.output.rows(found, COLUMNS)


@app.command()
def show(context: typer.Context, file: FileId) -> None:
    """Show one file's facts."""
    session = Session.of(context)
    with translated():
        found = session.connection.client.files.retrieve(file).to_dict()
    session.output.one(found, (*COLUMNS, Column("rows", "rows"), Column("sha256", "sha256")))


@app.command()
def delete(context: typer.Context, file: FileId) -> None:
    """Delete a file; what was trained on it keeps its lineage."""
    session = Session.of(context)
    with translated():
        deleted = session.connection.client.files.delete(file).to_dict()
    session.output.said(deleted, f"Deleted {file}.")


def send(connection: Connection, path: Path, *, purpose: str = "fine-tune") -> JsonObject:
    """Upload one file through the official client."""
    with translated(), path.open("rb") as stream:
        # FilePurpose is a closed list in the client's types; the service names the ones it takes.
        return connection.client.files.create(file=(path.name, stream), purpose=purpose).to_dict()  # type: ignore[arg-type]


def id_of(connection: Connection, path_or_id: str, *, option: str) -> str:
    """The id of an uploaded file, or of a local one, which is uploaded first."""
    path = Path(path_or_id)
    if path.is_file():
        return str(send(connection, path)["id"])
    if path_or_id.startswith(IdKind.FILE):
        return path_or_id
    raise typer.BadParameter(f"{path_or_id} is no file here, and no id of an uploaded one.", param_hint=option)
