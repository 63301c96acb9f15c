"""`tsugiki files`: rows to train, validate and evaluate on."""

from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import FORBIDDEN, Connection, JsonObject, Refused, translated
from cli.output import Column, Output, plain, size, when
from cli.session import NotNamed, Session
from domain.data_classes import DataClass
from domain.digests import digest_file
from domain.ids import IdKind

FILES_A_PAGE = 1000

app = typer.Typer(help="Files of rows, one conversation a line.")

COLUMNS = (
    Column("id", "id"),
    Column("filename", "filename"),
    Column("size", lambda item: size(item["bytes"])),
    Column("purpose", "purpose"),
    Column("data class", "data_class"),
    Column("status", "status"),
    Column("created", lambda item: when(item["created_at"])),
)
DESCENDANTS = (
    Column("version", lambda item: f"{item['adapter']}@{item['version']}"),
    Column("state", "state"),
    Column("live", "live"),
    Column("saw it", "relation"),
    Column("through", "through"),
    Column("aliases", "aliases"),
    Column("servers", "servers"),
    Column("holders", "holders"),
    Column("id", "id"),
)
FileId = Annotated[str, typer.Argument(metavar="FILE_ID", help="As `files list` shows it: file-….")]


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="JSON Lines, a row a line.")],
    purpose: Annotated[str, typer.Option(help="What it is for: the one purpose here.")] = "fine-tune",
    data_class: Annotated[
        DataClass | None, typer.Option(help="How confidential it is; as the department says when left out.")
    ] = None,
) -> None:
    """Upload a JSON Lines file; it is checked while it arrives."""
    session = Session.of(context)
    uploaded = send(session.connection, path, purpose=purpose, data_class=data_class)
    session.output.said(uploaded, f"Uploaded {path.name}: {uploaded['id']}")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's files, newest first."""
    session = Session.of(context)
    with translated():
        found = [file.to_dict() for file in session.connection.client.files.list(limit=FILES_A_PAGE)]
    session.output.rows(found, COLUMNS)


@app.command()
def show(context: typer.Context, file: FileId) -> None:
    """Show one file's facts."""
    session = Session.of(context)
    with translated():
        found = session.connection.client.files.retrieve(file).to_dict()
    session.output.one(found, (*COLUMNS, Column("rows", "rows"), Column("sha256", "sha256")))


@app.command()
def descendants(
    context: typer.Context,
    file: FileId,
    *,
    live: Annotated[bool, typer.Option("--live", help="Only versions that can still be handed out.")] = False,
) -> None:
    """List the versions that saw a file: trained, validated or evaluated on it, or continued from one that was."""
    session = Session.of(context)
    found = session.connection.get("files", file, "descendants", query={"live": "true" if live else None})
    session.output.rows(found["data"], DESCENDANTS)


@app.command()
def delete(context: typer.Context, file: FileId) -> None:
    """Delete a file; what was trained on it keeps its lineage."""
    session = Session.of(context)
    with translated():
        deleted = session.connection.client.files.delete(file).to_dict()
    session.output.said(deleted, f"Deleted {file}.")


def send(
    connection: Connection, path: Path, *, purpose: str = "fine-tune", data_class: DataClass | None = None
) -> JsonObject:
    """Upload one file through the official client."""
    ours = None if data_class is None else {"data_class": data_class.value}
    with translated(), path.open("rb") as stream:
        # FilePurpose is a closed list in the client's types; the service names the ones it takes.
        return connection.client.files.create(file=(path.name, stream), purpose=purpose, extra_body=ours).to_dict()  # type: ignore[arg-type]


class Shelf:
    """The department's files by their bytes: a local one is uploaded unless it is there already."""

    def __init__(self, connection: Connection, output: Output) -> None:
        self._connection, self._output = connection, output

    @cached_property
    def _ids(self) -> dict[str, str]:
        try:
            with translated():
                found = [file.to_dict() for file in self._connection.client.files.list(limit=FILES_A_PAGE)]
        except Refused as refused:
            # Who may not look at files may still be one to send them.
            if refused.status != FORBIDDEN:
                raise
            return {}
        # Newest first: of two with the same bytes, the newer is taken.
        return {str(file.get("sha256")): str(file["id"]) for file in reversed(found)}

    def id_of(self, path_or_id: str, *, option: str) -> str:
        """The id of an uploaded file, or of a local one, which is uploaded first where its bytes are new."""
        path = Path(path_or_id)
        if path.is_file():
            return self._id_of_local(path)
        if path_or_id.startswith(IdKind.FILE):
            return path_or_id
        raise NotNamed(f"{option}: {path_or_id} is no file here, and no id of an uploaded one.")

    def _id_of_local(self, path: Path) -> str:
        digest, _size_bytes = digest_file(path)
        sha256 = digest.removeprefix("sha256:")
        if (known := self._ids.get(sha256)) is not None:
            self._tell(f"{path.name} is there already: {known}")
            return known
        uploaded = str(send(self._connection, path)["id"])
        self._ids[sha256] = uploaded
        self._tell(f"Uploaded {path.name}: {uploaded}")
        return uploaded

    def _tell(self, sentence: str) -> None:
        self._output.story.print(plain(sentence), markup=False, soft_wrap=True)


@app.command()
def grant(
    context: typer.Context,
    file: FileId,
    user: Annotated[str, typer.Argument(help="Id of the member, `user-…`.")],
    days: Annotated[int | None, typer.Option(min=1, help="For how long; as long as is allowed without.")] = None,
) -> None:
    """Let a member read a file's content for a time; for data stewards."""
    session = Session.of(context)
    body: dict[str, object] = {"user_id": user} | ({"expires_in_days": days} if days else {})
    given = session.connection.post("files", file, "grants", body=body)
    session.output.said(given, f"{given['id']}: until {when(given['expires_at'])}.")


@app.command("end-grant")
def end_grant(
    context: typer.Context, file: FileId, grant_id: Annotated[str, typer.Argument(help="`filegrant-…`.")]
) -> None:
    """End a grant of a file's content with the next request."""
    session = Session.of(context)
    session.output.said(session.connection.delete("files", file, "grants", grant_id), f"Ended {grant_id}.")
