"""`tsugiki keys`: API keys of a department's people."""

from typing import Annotated

import typer

from cli.output import Column, when
from cli.session import NotNamed, Session
from domain.access import PrincipalType

app = typer.Typer(help="API keys of a department.")

COLUMNS = (
    Column("name", "name"),
    Column("key", "redacted_value"),
    Column("owner", lambda item: _owner(item.get("owner"))),
    Column("scopes", lambda item: item["scopes"] or "all"),
    Column("created", lambda item: when(item["created_at"])),
    Column("last used", lambda item: when(item["last_used_at"])),
    Column("expires", lambda item: when(item["expires_at"])),
    Column("id", "id"),
)


def _owner(owner: dict[str, dict[str, str]] | None) -> str | None:
    inside = (owner or {}).get("user") or (owner or {}).get("service_account") or {}
    return inside.get("email") or inside.get("name") or inside.get("id")


@app.command()
def create(
    context: typer.Context,
    *,
    user: Annotated[
        str | None, typer.Option(help="E-mail address or id of the member it is for; yourself when left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A permission it is made for, as `tsugiki access` names them; may be repeated. All without."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long it lives; as long as is allowed without.")] = None,
) -> None:
    """Make a key for yourself or, as an admin, for a member. Its secret is shown this once."""
    session = Session.of(context)
    body: dict[str, object] = {"user_id": session.member(user) if user else _oneself(session), "name": name}
    body |= {"scopes": scope} if scope else {}
    body |= {"expires_in_days": days} if days else {}
    made = session.connection.post("organization", "projects", session.department, "api_keys", body=body)
    # Alone on standard output, so that `KEY=$(tsugiki keys create …)` works.
    session.output.said(made, made["value"])


def _oneself(session: Session) -> str:
    if session.me["type"] != PrincipalType.USER:
        raise NotNamed("This key is no person's: say whom the new one is for with --user.")
    return str(session.me["id"])


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List a department's keys that are not revoked."""
    session = Session.of(context)
    keys = session.connection.pages("organization", "projects", session.department, "api_keys")
    session.output.rows(keys, COLUMNS)


@app.command()
def revoke(
    context: typer.Context, key: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")]
) -> None:
    """End a key, from its next request on."""
    session = Session.of(context)
    path = ("organization", "projects", session.department, "api_keys", key)
    session.output.said(session.connection.delete(*path), f"Revoked {key}.")
