"""`tsugiki users`: the people of the organisation."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="People of the organisation.")

COLUMNS = (
    Column("name", "name"),
    Column("e-mail", "email"),
    Column("id", "id"),
    Column("added", lambda item: when(item["added_at"])),
)


@app.command()
def create(
    context: typer.Context,
    email: Annotated[str, typer.Argument(help="Their e-mail address.")],
    name: Annotated[str, typer.Option(help="The person's name.")],
) -> None:
    """Enter a person into the organisation; a department's admin then makes them a member."""
    session = Session.of(context)
    created = session.connection.post("organization", "users", body={"email": email, "name": name})
    session.output.said(created, f"Created {created['email']}: {created['id']}")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the people that the key may see."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("organization", "users"), COLUMNS)
