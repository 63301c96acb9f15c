"""`tsugiki access`: the table of roles and permissions that the service goes by."""

from collections.abc import Iterator

import typer

from cli.output import Column
from cli.session import Session
from domain.access import MATRIX, Permission, Role

COLUMNS = (Column("permission", "permission"), *(Column(role.value.replace("_", " "), role.value) for role in Role))


def access(context: typer.Context) -> None:
    """Show which role may what, and how far: own, granted, metadata, department or platform. Asks no service."""
    rows = [{"permission": permission, **dict.fromkeys(Role, ""), **MATRIX[permission]} for permission in Permission]
    Session.of(context).output.rows(rows, COLUMNS)


def as_markdown() -> Iterator[str]:
    """The same table, as it stands in docs/access.md, line by line."""
    yield "| permission | " + " | ".join(role.value.replace("_", " ") for role in Role) + " |"
    yield "|---" * (len(Role) + 1) + "|"
    for permission in Permission:
        yield f"| `{permission}` | " + " | ".join(MATRIX[permission].get(role, "") for role in Role) + " |"


if __name__ == "__main__":
    # How docs/access.md is written anew: python -m cli.access
    typer.echo("\n".join(as_markdown()))
