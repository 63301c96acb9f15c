"""`tsugiki adapters`: what becomes of a version: labels, its card, comparisons, and its end."""

from typing import Annotated

import typer

from cli.output import Column, number
from cli.session import NotNamed, Session
from domain.adapters import LATEST

Reference = Annotated[str, typer.Argument(metavar="NAME@REF", help="A version by number or alias.")]
Reason = Annotated[str, typer.Option(help="Why; it stays with the version.")]

DIFFERENCES = (
    Column("what", "name"),
    Column("before", lambda item: _short(item["before"])),
    Column("after", lambda item: _short(item["after"])),
    Column("change", lambda item: number(item["change"])),
)


def split(reference: str) -> tuple[str, str]:
    """The adapter and the version or alias of `name@ref`. Raises NotNamed where one is missing."""
    name, _, wanted = reference.partition("@")
    if not name or not wanted:
        raise NotNamed(f"{reference}: say which, as in `triage@3`.")
    return name, wanted


def _short(value: object) -> object:
    return number(value, digits=6) if isinstance(value, float) else value


def label(
    context: typer.Context,
    reference: Reference,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]…", help="In place of all it had; none: leave them.")
    ] = None,
    *,
    description: Annotated[str | None, typer.Option(help="What it is, in words.")] = None,
) -> None:
    """Set a version's labels and description: all of it that can be edited."""
    session = Session.of(context)
    name, wanted = split(reference)
    body: dict[str, object] = {} if description is None else {"description": description}
    if labels:
        pairs = [pair.partition("=") for pair in labels]
        if any(not found for _name, found, _value in pairs):
            raise NotNamed("A label is NAME=VALUE.")
        body["labels"] = {key: value for key, _found, value in pairs}
    changed = session.connection.post("adapters", name, "versions", wanted, body=body)
    session.output.said(changed, f"{name}@{changed['number']} is described.")


def card(context: typer.Context, reference: Reference) -> None:
    """Print a version's model card, in Markdown; with --json its facts."""
    session = Session.of(context)
    name, wanted = split(reference)
    path = ("adapters", name, "versions", wanted, "card")
    if session.output.as_json:
        session.output.json(session.connection.get(*path))
    else:
        session.output.console.file.write(session.connection.text(*path, query={"format": "markdown"}))


def compare(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An adapter.")],
    before: Annotated[str, typer.Argument(metavar="FROM", help="A version by number or alias.")],
    after: Annotated[str, typer.Argument(metavar="TO", help="Another one.")] = LATEST,
) -> None:
    """Show what is different between two versions: settings, rows, measurements, files."""
    session = Session.of(context)
    found = session.connection.get("adapters", name, "compare", query={"from": before, "to": after})
    if session.output.as_json:
        session.output.json(found)
        return
    files = [
        {"name": each["path"], "before": each["before"], "after": each["after"], "change": None}
        for each in found["files"]
        if each["change"] != "same"
    ]
    for title, rows in (("settings", found["spec"]), ("rows", found["data"]), ("files", files)):
        session.output.console.print(f"{title}:", style="bold")
        session.output.rows(rows, DIFFERENCES)
    session.output.console.print("measurements:", style="bold")
    session.output.rows(found["metrics"], DIFFERENCES)


def revoke(context: typer.Context, reference: Reference, reason: Reason) -> None:
    """Stop a version at once: nobody gets it any more, and its aliases are withdrawn."""
    _end(context, reference, verb="revoke", reason=reason, done="revoked")


def retire(context: typer.Context, reference: Reference, reason: Reason) -> None:
    """Take a version out of service for good; not while an alias stands for it."""
    _end(context, reference, verb="retire", reason=reason, done="retired")


def _end(context: typer.Context, reference: str, *, verb: str, reason: str, done: str) -> None:
    session = Session.of(context)
    name, wanted = split(reference)
    ended = session.connection.post("adapters", name, "versions", wanted, verb, body={"reason": reason})
    session.output.said(ended, f"{name}@{ended['number']} is {done}.")


def delete(context: typer.Context, reference: Reference) -> None:
    """Delete a version's files; its number and its lineage stay."""
    session = Session.of(context)
    name, wanted = split(reference)
    deleted = session.connection.delete("adapters", name, "versions", wanted)
    session.output.said(deleted, f"Deleted {reference}.")


def add_to(app: typer.Typer) -> None:
    """Make them commands of `tsugiki adapters`."""
    for command in (label, card, compare, revoke, retire, delete):
        app.command()(command)
