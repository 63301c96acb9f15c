"""`tsugiki adapters`: names that move between versions."""

from typing import Annotated

import typer

from cli.connection import JsonObject, Refused
from cli.output import Column, when
from cli.session import Session
from cli.versions import split

_NOT_FOUND = 404

COLUMNS = (
    Column("alias", "name"),
    Column("version", "version"),
    Column("protected", "protected"),
    Column("moved", lambda item: when(item["moved_at"])),
    Column("by", lambda item: item["moved_by"] or "tsugiki"),
)
HISTORY = (
    Column("when", lambda item: when(item["moved_at"])),
    Column("what", "kind"),
    Column("from", "before"),
    Column("to", "after"),
    Column("by", lambda item: item["moved_by"] or "tsugiki"),
)
Alias = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="An alias of an adapter.")]


def aliases(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="An adapter.")]) -> None:
    """List an adapter's aliases."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("adapters", name, "aliases"), COLUMNS)


def history(context: typer.Context, alias: Alias) -> None:
    """Show how an alias moved, newest first."""
    session = Session.of(context)
    name, called = split(alias)
    session.output.rows(session.connection.pages("adapters", name, "aliases", called, "history"), HISTORY)


def move(
    context: typer.Context,
    alias: Alias,
    version: Annotated[int, typer.Argument(help="The number of the version it is to stand for.")],
    *,
    if_match: Annotated[
        str | None, typer.Option(help="The ETag that it must have; what it has at this moment when left out.")
    ] = None,
) -> None:
    """Let an alias stand for a version. Refused where somebody else moves it at the same moment."""
    session = Session.of(context)
    name, called = split(alias)
    path, current = ("adapters", name, "aliases", called), None
    if if_match is None and (current := _found(session, path)) is not None:
        if_match = current["etag"]
    headers = {"If-None-Match": "*"} if if_match is None else {"If-Match": f'"{if_match}"'}
    moved = session.connection.put(*path, body={"version": version}, headers=headers)
    before = f" (before: {current['version']})" if current else ""
    session.output.said(moved, f"{alias} stands for version {moved['version']}{before}.")


def _found(session: Session, path: tuple[str, ...]) -> JsonObject | None:
    try:
        return session.connection.get(*path)
    except Refused as refused:
        if refused.status != _NOT_FOUND:
            raise
        return None


def rollback(context: typer.Context, alias: Alias) -> None:
    """Let an alias stand for the version before again; once more for the one before that."""
    session = Session.of(context)
    name, called = split(alias)
    moved = session.connection.post("adapters", name, "aliases", called, "rollback")
    session.output.said(moved, f"{alias} stands for version {moved['version']} again.")


def withdraw(context: typer.Context, alias: Alias) -> None:
    """Let an alias stand for nothing any more; a rollback brings it back."""
    session = Session.of(context)
    name, called = split(alias)
    session.output.said(session.connection.delete("adapters", name, "aliases", called), f"{alias} is withdrawn.")


def add_to(app: typer.Typer) -> None:
    """Make them commands of `tsugiki adapters`."""
    for command in (aliases, history, move, rollback, withdraw):
        app.command()(command)
