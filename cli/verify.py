"""`tsugiki verify`: a pulled folder against its signature; and `tsugiki signing-key`, which checks it elsewhere."""

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import JsonObject
from cli.output import Column
from cli.session import NotNamed, Session
from domain.adapters import VersionState
from domain.refusals import Refusal
from signing.keys import PublicKey, SigningKeyUnusable
from signing.verification import Verdict
from signing.verification import verify as verify_folder

DOES_NOT_HOLD = 1
COLUMNS = (
    Column("version", lambda item: f"{item['adapter']}@{item['number']}" if item["adapter"] else None),
    Column("digest", "digest"),
    Column("state", lambda item: f"{item['state']}, at {item['as_of']}" if item["state"] else None),
    Column("approved by", "approvers"),
    Column("aliases", "aliases"),
    Column("made by", "builder"),
)
REASONS = (Column("code", "code"), Column("where", "param"), Column("what", "message"))


class Accepted(StrEnum):
    """Which versions are good enough."""

    APPROVED = "approved"
    CANDIDATE = "candidate"


def verify(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder that `adapters pull` wrote.")],
    *,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="A public key of the service in a file; more than one time for earlier keys. Offline then."),
    ] = None,
    accept: Annotated[
        Accepted, typer.Option(help="The state it must have had: `candidate` takes one that nobody decided on.")
    ] = Accepted.APPROVED,
    max_age_hours: Annotated[
        float | None, typer.Option(min=0, help="How old the statement of its approval may be.")
    ] = None,
) -> None:
    """Check a pulled folder: signature, every file's digest, how it was made, and where it stood when it was pulled.

    Exits with 1, and tells every reason, where something is wrong. Without --public-key the service is asked for its
    keys: keep them where adapters are used, and nothing but the folder is needed.
    """
    session = Session.of(context)
    keys = [_read(path) for path in public_key] if public_key else _keys_of_service(session)
    states = {VersionState.APPROVED} | ({VersionState.CANDIDATE} if accept is Accepted.CANDIDATE else set())
    max_age = None if max_age_hours is None else timedelta(hours=max_age_hours)
    verdict = verify_folder(folder, keys, now=datetime.now(UTC), accepted=frozenset(states), max_age=max_age)
    told = _told(verdict)
    session.output.one(told, COLUMNS)
    if not session.output.as_json and not verdict.holds:
        session.output.rows(told["reasons"], REASONS)
    if not verdict.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def signing_key(context: typer.Context) -> None:
    """Print the public key that versions are signed with: to be kept where adapters are used."""
    session = Session.of(context)
    found = session.connection.get("signing_key")
    if session.output.as_json:
        session.output.json(found)
    else:
        sys.stdout.write(found["pem"])


def _read(path: Path) -> PublicKey:
    try:
        return PublicKey.read(path.read_bytes())
    except SigningKeyUnusable as unusable:
        raise NotNamed(f"--public-key {path}: {unusable}") from None


def _keys_of_service(session: Session) -> list[PublicKey]:
    return [PublicKey.read(key["pem"].encode()) for key in session.connection.get("signing_keys")["data"]]


def _told(verdict: Verdict) -> JsonObject:
    approval = verdict.approval
    about = dict.fromkeys(("adapter", "number", "state", "as_of"))
    if approval is not None:
        about = {name: getattr(approval, name) for name in about}
    return about | {
        "holds": verdict.holds,
        "digest": verdict.digest,
        "approvers": [] if approval is None else [each.id for each in approval.approvers],
        "aliases": [] if approval is None else list(approval.aliases),
        "builder": verdict.builder,
        "reasons": [_reason(reason) for reason in verdict.reasons],
    }


def _reason(reason: Refusal) -> JsonObject:
    return {"code": reason.code, "param": reason.param, "message": reason.message}
