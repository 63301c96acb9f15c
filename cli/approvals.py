"""`tsugiki approvals`: ask for a version to be approved, and decide about those of others."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session
from cli.versions import Reference, split

app = typer.Typer(help="Approvals: two people stand behind a version in service, and neither is both.")

COLUMNS = (
    Column("id", "id"),
    Column("version", lambda item: f"{item['adapter']}@{item['version']}"),
    Column("state", "state"),
    Column("approved", lambda item: f"{_approvals(item['decisions'])} of {item['required']}"),
    Column("asked by", "requester"),
    Column("expires", lambda item: when(item["expires_at"])),
)
DETAILS = (
    *COLUMNS,
    Column("digest", "digest"),
    Column("made by", "submitter"),
    Column("note", "note"),
    Column("evaluations", "evaluation_ids"),
    Column("decisions", lambda item: [f"{each['approver']}: {each['decision']}" for each in item["decisions"]]),
    Column("comments", lambda item: [f"{each['author']}: {each['comment']}" for each in item["comments"]]),
)
ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL_ID", help="As `approvals list` shows it: approval-….")]
Seen = Annotated[str, typer.Option("--digest", help="The digest you looked at; of other bytes nothing is decided.")]
Comment = Annotated[str, typer.Option("--comment", help="Why.")]


def _approvals(decisions: list[dict[str, str]]) -> int:
    return sum(each["decision"] == "approve" for each in decisions)


@app.command("list")
def list_all(
    context: typer.Context,
    *,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what you can decide now.")] = False,
) -> None:
    """List requests, newest first."""
    session = Session.of(context)
    query = {"waiting_for": "me" if waiting else None}
    session.output.rows(session.connection.pages("approvals", query=query), COLUMNS)


@app.command()
def show(context: typer.Context, approval: ApprovalId) -> None:
    """Show a request, its evidence, and what was decided."""
    session = Session.of(context)
    session.output.one(session.connection.get("approvals", approval), DETAILS)


@app.command()
def request(
    context: typer.Context,
    reference: Reference,
    *,
    note: Annotated[str, typer.Option(help="For whoever decides.")] = "",
    evaluation: Annotated[
        list[str] | None, typer.Option(help="An evaluation that speaks for it: eval-…; may be repeated.")
    ] = None,
) -> None:
    """Ask for a version to be approved."""
    session = Session.of(context)
    name, version = split(reference)
    body = {"adapter": name, "version": version, "note": note, "evaluation_ids": evaluation or []}
    made = session.connection.post("approvals", body=body)
    session.output.said(made, f"Asked for {name}@{made['version']}: {made['id']}")


@app.command()
def approve(context: typer.Context, approval: ApprovalId, digest: Seen, comment: Comment = "") -> None:
    """Approve a version that others made and asked for."""
    session = Session.of(context)
    body = {"decision": "approve", "digest": digest, "comment": comment}
    decided = session.connection.post("approvals", approval, "decision", body=body)
    session.output.said(decided, f"{decided['adapter']}@{decided['version']}: {_left(decided)}")


def _left(decided: dict[str, object]) -> str:
    return "approved." if decided["state"] == "approved" else "your approval counts; others must approve as well."


@app.command()
def reject(context: typer.Context, approval: ApprovalId, digest: Seen, comment: Comment = "") -> None:
    """Reject a version: one rejection is enough."""
    session = Session.of(context)
    body = {"decision": "reject", "digest": digest, "comment": comment}
    decided = session.connection.post("approvals", approval, "decision", body=body)
    session.output.said(decided, f"{decided['adapter']}@{decided['version']}: rejected.")


@app.command()
def comment(
    context: typer.Context, approval: ApprovalId, text: Annotated[str, typer.Argument(help="What to say.")]
) -> None:
    """Say something to a request."""
    session = Session.of(context)
    said = session.connection.post("approvals", approval, "comments", body={"comment": text})
    session.output.said(said, f"Said to {approval}.")


@app.command()
def withdraw(context: typer.Context, approval: ApprovalId) -> None:
    """Take back a request that nobody has decided."""
    session = Session.of(context)
    session.output.said(session.connection.post("approvals", approval, "withdraw"), f"Withdrew {approval}.")
