"""`tsugiki audit verify`: whether anybody rewrote the audit trail. It asks the service nothing."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import psycopg
import typer
from cryptography.exceptions import UnsupportedAlgorithm

from cli.output import Column
from cli.session import Session
from domain.ids import IdKind, public_id
from evidence.checkpoints import Checkpoint, CheckpointInvalid, open_all, public_key, read_segment
from evidence.database import verify_database
from evidence.events import PLATFORM
from evidence.export import ExportInvalid, ExportTrail
from evidence.seals import Seal
from evidence.verify import Report, verify

DATABASE_VARIABLE = "TSUGIKI_AUDIT_DATABASE_URL"
COLUMNS = (
    Column("result", "result"),
    Column("first bad event", "first_bad"),
    Column("what", "what"),
    Column("events", "events"),
    Column("not sealed yet", "unsealed"),
    Column("of dropped months", "archived"),
    Column("dropped months", "months"),
    Column("seals", "seals"),
    Column("chains", "chains"),
    Column("checkpoints", "checkpoints"),
    Column("faults", "faults"),
)


class NotVerified(Exception):  # noqa: N818 - named for the fact
    """There was not enough to verify, or what was given is not what it should be."""


def verify_trail(
    context: typer.Context,
    *,
    export: Annotated[Path | None, typer.Option(help="An export of the whole trail, NDJSON.")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(envvar=DATABASE_VARIABLE, help="Or the database: postgresql://…, as a role that reads the trail."),
    ] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="The file of checkpoints that you kept.")] = None,
    public_key_file: Annotated[Path | None, typer.Option("--public-key", help="The checkpoints' key, PEM.")] = None,
    segments: Annotated[
        Path | None, typer.Option(help="Folder with the checkpoints' .seals.gz, from the locked bucket.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Chains verified at a time.")] = os.cpu_count() or 1,
) -> None:
    """Hold every event against its seal, and every seal against the signed checkpoints; ends with 1 where one fails.

    Needs no service. Without checkpoints the end of the trail could have been cut off, and nobody would know.
    """
    try:
        opened = _opened(checkpoints, public_key_file)
        kept = _kept(segments, opened)
        if export is not None:
            report = verify(ExportTrail.read(export), opened, kept)
        elif database_url is not None:
            report = verify_database(_plain(database_url), opened, kept, processes=processes)
        else:
            raise NotVerified(f"Say what to verify: --export FILE, or --database-url (or {DATABASE_VARIABLE}).")
    except (CheckpointInvalid, ExportInvalid) as fact:
        raise NotVerified(f"{fact}.") from fact
    except psycopg.Error as error:
        raise NotVerified("The database cannot be reached, or does not let you read the trail.") from error
    Session.of(context).output.one(_told(report), COLUMNS)
    if report.findings:
        sys.exit(1)


def _opened(file: Path | None, key_file: Path | None) -> list[Checkpoint]:
    if file is None:
        return []
    if key_file is None:
        raise NotVerified("Checkpoints are worth what their signature is: give --public-key too.")
    try:
        key = public_key(key_file)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NotVerified(f"{key_file} holds no Ed25519 public key.") from error
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise NotVerified(f"{file} is no file of checkpoints.") from error
    return open_all(lines, key)


def _kept(folder: Path | None, opened: Sequence[Checkpoint]) -> dict[UUID, list[Seal]]:
    """The seals of the segments, by chain. They must begin with the first: a chain is believed from its start."""
    kept: dict[UUID, list[Seal]] = {}
    if folder is None:
        return kept
    if opened and opened[0].number != 1:
        raise NotVerified("Segments are of use from the first checkpoint on, and your file begins later.")
    for checkpoint in opened:
        segment = folder / f"{checkpoint.number:08}.seals.gz"
        for seal in read_segment(segment.read_bytes(), checkpoint):
            kept.setdefault(seal.chain, []).append(seal)
    return kept


def _plain(url: str) -> str:
    """As libpq has it; the service's own settings name a driver."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _told(report: Report) -> dict[str, object]:
    bad = report.first_bad
    return {
        "result": "whole" if bad is None else "tampered",
        "first_bad": bad and bad.number,
        "what": bad and f"{bad.what} ({_chain(bad.chain)})",
        "events": report.events,
        "unsealed": report.unsealed,
        "archived": report.archived,
        "months": report.months,
        "seals": report.seals,
        "chains": report.chains,
        "checkpoints": report.checkpoints,
        "faults": [
            {"event": each.number, "chain": _chain(each.chain), "fault": each.fault, "what": each.what}
            for each in report.findings
        ],
    }


def _chain(chain: UUID) -> str:
    return "the platform's chain" if chain == PLATFORM else public_id(IdKind.DEPARTMENT, chain)
