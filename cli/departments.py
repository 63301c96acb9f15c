"""`tsugiki departments`."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import Session

app = typer.Typer(help="Departments: the tenants, each with its own people, files, jobs and adapters.")

COLUMNS = (Column("name", "name"), Column("id", "id"), Column("created", lambda item: when(item["created_at"])))


@app.command()
def create(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'.")]
) -> None:
    """Create a department; the operator's to do."""
    session = Session.of(context)
    created = session.connection.post("organization", "projects", body={"name": name})
    session.output.said(created, f"Created the department {created['name']}: {created['id']}")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the departments that the key may see."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("organization", "projects"), COLUMNS)


@app.command()
def show(context: typer.Context, department: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Show one department."""
    session = Session.of(context)
    session.output.one(session.connection.get("organization", "projects", session.department_id(department)), COLUMNS)
