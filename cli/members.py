"""`tsugiki members`: who belongs to a department, and as what."""

from typing import Annotated

import typer

from cli.output import Column
from cli.session import Session
from domain.access import DEPARTMENT_ROLES

app = typer.Typer(help="People of a department and their roles.")

COLUMNS = (Column("name", "name"), Column("e-mail", "email"), Column("roles", "roles"), Column("id", "id"))
Person = Annotated[str, typer.Argument(help="E-mail address or id.")]


@app.command()
def add(
    context: typer.Context,
    user: Person,
    role: Annotated[list[str], typer.Option(help=f"One of {', '.join(sorted(DEPARTMENT_ROLES))}; may be repeated.")],
) -> None:
    """Give someone roles, in place of those they had. The operator names a department's first admin only."""
    session = Session.of(context)
    # Who is not a member yet stands in no list of an admin's: the service finds them.
    body = {"email" if "@" in user else "user_id": user, "roles": role}
    added = session.connection.post("organization", "projects", session.department, "users", body=body)
    session.output.said(added, f"{user} is now {', '.join(role)}.")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List a department's people."""
    session = Session.of(context)
    people = session.connection.pages("organization", "projects", session.department, "users")
    session.output.rows(people, COLUMNS)


@app.command()
def remove(context: typer.Context, user: Person) -> None:
    """Take someone out of a department and end their keys there."""
    session = Session.of(context)
    path = ("organization", "projects", session.department, "users", session.member(user))
    session.output.said(session.connection.delete(*path), f"{user} is no longer in the department.")
