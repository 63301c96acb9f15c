"""`tsugiki webhooks`: who is told of what happens."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="Webhook endpoints: a department's, or with the operator's key those of the organisation.")

COLUMNS = (
    Column("id", "id"),
    Column("name", "name"),
    Column("url", "url"),
    Column("hears of", "event_types"),
    Column("secret", "signing_secret_hint"),
    Column("changed", lambda item: when(item["updated_at"])),
)
WITH_SECRET = (*COLUMNS[:4], Column("secret", "signing_secret"))
EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT_ID", help="As `webhooks list` shows it: wh_….")]


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the endpoints, newest first."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("webhook_endpoints"), COLUMNS)


@app.command()
def events(context: typer.Context) -> None:
    """List what there is to hear of."""
    session = Session.of(context)
    found = session.connection.get("webhook_event_types")
    session.output.rows([{"type": name} for name in found["data"]], (Column("type", "type"),))


@app.command()
def create(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where messages are sent: https://….")],
    *,
    name: Annotated[str, typer.Option(help="For a person.")],
    event: Annotated[list[str], typer.Option(help="What it hears of, as `webhooks events` lists it. May be repeated.")],
) -> None:
    """Register an endpoint. Its secret is shown now, and never again."""
    session = Session.of(context)
    body = {"name": name, "url": url, "event_types": event}
    session.output.one(session.connection.post("webhook_endpoints", body=body), WITH_SECRET)


@app.command("test")
def send_sample(
    context: typer.Context,
    endpoint: EndpointId,
    *,
    event: Annotated[str, typer.Option(help="The type of the sample.")] = "fine_tuning.job.succeeded",
) -> None:
    """Send a sample, and tell what was answered."""
    session = Session.of(context)
    answered = session.connection.post("webhook_endpoints", endpoint, "test", body={"event_type": event})
    session.output.said(answered, f"It answered with {answered['status_code']}.")


@app.command("rotate-secret")
def rotate_secret(
    context: typer.Context,
    endpoint: EndpointId,
    *,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Sign with the old one too, for a day.")] = False,
) -> None:
    """Give an endpoint another secret, shown now and never again."""
    session = Session.of(context)
    body = {"keep_old_secret_active_for_24_hours": keep_old}
    session.output.one(session.connection.post("webhook_endpoints", endpoint, "rotate_secret", body=body), WITH_SECRET)


@app.command()
def delete(context: typer.Context, endpoint: EndpointId) -> None:
    """Send it nothing more."""
    session = Session.of(context)
    session.output.said(session.connection.delete("webhook_endpoints", endpoint), f"Deleted {endpoint}.")
