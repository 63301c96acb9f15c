"""`tsugiki roles`: the roles that operators give."""

from typing import Annotated

import typer

from cli.connection import JsonObject
from cli.output import Column, when
from cli.session import NotNamed, Session
from domain.access import Role

app = typer.Typer(help="Roles that operators give: two of them where there are two.")

# What nobody in a department gives to another.
GIVEN = (Role.APPROVER, Role.OPERATOR, Role.AUDITOR)

COLUMNS = (
    Column("role", "role"),
    Column("user", "user_id"),
    Column("status", "status"),
    Column("asked for", lambda item: when(item["created_at"])),
    Column("given", lambda item: when(item["decided_at"])),
    Column("id", "id"),
)

GrantId = Annotated[str, typer.Argument(metavar="ID", help="Id, as `roles list` shows it.")]


@app.command()
def grant(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="E-mail address or id.")],
    role: Annotated[Role, typer.Argument(metavar="ROLE", help=f"One of {', '.join(GIVEN)}.")],
) -> None:
    """Give somebody a role: approver of the department of --department, or operator or auditor of the platform.

    Where there is another operator, it is only asked for, and given when that one confirms it.
    """
    session = Session.of(context)
    body = {"role": role, "user_id": _user(session, user)}
    _say(session, session.connection.post("organization", "role_grants", body=body))


def _user(session: Session, email_or_id: str) -> str:
    if "@" not in email_or_id:
        return email_or_id
    for user in session.connection.pages("organization", "users"):
        if user["email"] == email_or_id.lower():
            return str(user["id"])
    raise NotNamed(f"Nobody has the e-mail address {email_or_id}.")


def _say(session: Session, grant: JsonObject) -> None:
    session.output.said(grant, f"{grant['id']}: {grant['role']} {grant['status']}.")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List roles that were asked for or given: of the department of --department, or of the platform."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("organization", "role_grants"), COLUMNS)


@app.command()
def confirm(context: typer.Context, grant: GrantId) -> None:
    """Give the role that another operator asked for."""
    session = Session.of(context)
    _say(session, session.connection.post("organization", "role_grants", grant, "confirm"))


@app.command()
def withdraw(context: typer.Context, grant: GrantId) -> None:
    """Take back a request, or the role that was given: an operator's or auditor's keys end with it."""
    session = Session.of(context)
    _say(session, session.connection.delete("organization", "role_grants", grant))


@app.command()
def claim(context: typer.Context, grant: GrantId) -> None:
    """Make the key of an operator's or auditor's role that you were given. Its secret is shown this once."""
    session = Session.of(context)
    made = session.connection.post("organization", "role_grants", grant, "key", body={})
    # Alone on standard output, as of `keys create`.
    session.output.said(made, made["value"])
