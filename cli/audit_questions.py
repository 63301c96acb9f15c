"""`tsugiki audit query` and `export`: saved questions to the trail, and the trail as a file."""

import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.connection import Connection, JsonObject
from cli.output import Column
from cli.session import Session
from domain.audit import AuditEvent

_POLL_S = 2.0
_ACCEPTED = 202
# In zlib's words.
_GZIP = 31
_DepartmentOption = Annotated[str | None, typer.Option("--department", help="Name or id; all when left out.")]


def query(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which question; left out, they are listed.")] = None,
    *,
    department: _DepartmentOption = None,
    file: Annotated[str | None, typer.Option(help="A file's id.")] = None,
    version: Annotated[str | None, typer.Option(help="A version's id.")] = None,
    adapter: Annotated[str | None, typer.Option(help="An adapter's id.")] = None,
    actor: Annotated[str | None, typer.Option(help="A user's or service account's id.")] = None,
    request: Annotated[str | None, typer.Option(help="A request's id.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How many days back.")] = None,
) -> None:
    """Ask a saved question of the audit trail. That it was asked is recorded."""
    session = Session.of(context)
    connection = session.audit_connection_in(department)
    if name is None:
        columns = (Column("name", "id"), Column("question", "question"), Column("needs", "needs"))
        session.output.rows(connection.get("audit", "queries")["data"], columns)
        return
    told = {"file": file, "version": version, "adapter": adapter, "actor": actor, "request": request, "days": days}
    answer = connection.get("audit", "queries", name, query=told)
    if session.output.as_json:
        session.output.json(answer)
        return
    rows: list[JsonObject] = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
    session.output.rows(rows, [Column(column, column) for column in answer["columns"]])


def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; it must not be there yet.")],
    *,
    file_format: Annotated[
        Literal["ndjson", "csv", "ocsf"],
        typer.Option("--format", help="ndjson can be verified; ocsf is API Activity for a SIEM."),
    ] = "ndjson",
    department: Annotated[list[str] | None, typer.Option(help="Name or id; may be repeated.")] = None,
    action: Annotated[
        list[AuditEvent] | None, typer.Option(help="Such as alias.moved.", show_choices=False, metavar="ACTION")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="From this moment on, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this moment, in UTC.")] = None,
) -> None:
    """Write the audit trail to a file; all of it, unless restricted, with what proves it. The export is recorded."""
    session = Session.of(context)
    connection = session.audit_connection
    body: JsonObject = {
        "format": file_format,
        "project_ids": [session.department_id(each) for each in department] if department else None,
        "event_types": [str(each) for each in action] if action else None,
        "since": _second(since),
        "until": _second(until),
    }
    body = {name: value for name, value in body.items() if value is not None}
    with out.open("xb") as file:
        for chunk in _content(connection, body):
            file.write(chunk)
    session.output.said({"file": str(out)}, f"The audit trail is in {out}.")


def _content(connection: Connection, body: JsonObject) -> Iterator[bytes]:
    """The export's lines: in the answer, or once they are written in the background."""
    with connection.stream("audit", "exports", body=body) as answer:
        if answer.status_code != _ACCEPTED:
            yield from answer.iter_bytes()
            return
        answer.read()
        begun: JsonObject = answer.json()
    while connection.get("audit", "exports", begun["id"])["status"] != "done":
        time.sleep(_POLL_S)
    unpacking = zlib.decompressobj(wbits=_GZIP)
    with connection.stream("audit", "exports", begun["id"], "content") as answer:
        yield from map(unpacking.decompress, answer.iter_bytes())


def _second(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())
