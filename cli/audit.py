"""`tsugiki audit`: who did what, when, to which object."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.connection import PAGE_ROWS, JsonObject
from cli.output import Column, when
from cli.session import Session
from domain.audit import AuditEvent, Outcome


def _actor(event: JsonObject) -> str:
    key = event["actor"]["api_key"] or {}
    owner = key.get("user") or key.get("service_account") or {}
    return str(owner.get("id") or event["actor"]["type"])


def _reason(event: JsonObject) -> str | None:
    """The code of a denial or a failure, and what was asked for where that was denied."""
    details = event.get("details") or {}
    asked = [details.get("method"), details.get("route")] if event["outcome"] == Outcome.DENIED else []
    return " ".join(str(part) for part in (event.get("reason"), *asked) if part) or None


def _id(noun: str) -> Callable[[JsonObject], str | None]:
    return lambda event: (event[noun] or {}).get("id")


ACTIONS_HELP = "Such as job.submitted, adapter.version.registered or access.denied; may be repeated."
COLUMNS = (
    Column("when", lambda item: when(item["effective_at"])),
    Column("action", "type"),
    Column("outcome", "outcome"),
    Column("reason", _reason),
    Column("actor", _actor),
    Column("resource", _id("resource")),
    Column("department", _id("project")),
)


app = typer.Typer(invoke_without_command=True)


@app.callback()
def audit(
    context: typer.Context,
    *,
    action: Annotated[
        list[AuditEvent] | None, typer.Option(help=ACTIONS_HELP, show_choices=False, metavar="ACTION")
    ] = None,
    department: Annotated[list[str] | None, typer.Option(help="Name or id; may be repeated.")] = None,
    actor: Annotated[list[str] | None, typer.Option(help="Id; may be repeated.")] = None,
    resource: Annotated[list[str] | None, typer.Option(help="Id of anything; may be repeated.")] = None,
    outcome: Annotated[list[Outcome] | None, typer.Option(help="How it ended; may be repeated.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this moment on, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """Read the audit trail, newest first. The reading is itself recorded.

    Its commands ask saved questions, export the trail, and prove that nobody rewrote it.
    """
    if context.invoked_subcommand is not None:
        return
    session = Session.of(context)
    query = {
        "event_types[]": [str(each) for each in action or ()],
        "project_ids[]": [session.department_id(each) for each in department or ()],
        "actor_ids[]": actor or [],
        "resource_ids[]": resource or [],
        "outcomes[]": [str(each) for each in outcome or ()],
        "effective_at[gte]": int(since.replace(tzinfo=UTC).timestamp()) if since else None,
        "limit": min(limit, PAGE_ROWS),
    }
    events = session.audit_connection.pages("organization", "audit_logs", query=query)
    session.output.rows(itertools.islice(events, limit), COLUMNS)
