"""`tsugiki service-accounts`: a department's robots."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="Service accounts: a department's pipelines and inference servers.")

COLUMNS = (
    Column("name", "name"),
    Column("roles", "roles"),
    Column("created", lambda item: when(item["created_at"])),
    Column("id", "id"),
)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called.")],
    role: Annotated[list[str], typer.Option(help="A role of the department, admin apart; may be repeated.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="A permission its key is made for; may be repeated. All without.")
    ] = None,
) -> None:
    """Make a service account with its first key, and answer for it. The key's secret is shown this once."""
    session = Session.of(context)
    path = ("organization", "projects", session.department, "service_accounts")
    body = {"name": name, "roles": role} | ({"scopes": scope} if scope else {})
    made = session.connection.post(*path, body=body)
    session.output.said(made, made["api_key"]["value"])


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List a department's service accounts."""
    session = Session.of(context)
    accounts = session.connection.pages("organization", "projects", session.department, "service_accounts")
    session.output.rows(accounts, COLUMNS)


@app.command()
def delete(
    context: typer.Context, account: Annotated[str, typer.Argument(help="Id, as `service-accounts list` shows it.")]
) -> None:
    """End a service account and its keys."""
    session = Session.of(context)
    path = ("organization", "projects", session.department, "service_accounts", account)
    session.output.said(session.connection.delete(*path), f"Deleted {account}.")
