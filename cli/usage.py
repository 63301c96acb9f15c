"""`tsugiki usage`: what was used, by whom, and what it cost."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from cli.connection import Connection, JsonObject, Query
from cli.output import Column, number, size
from cli.session import Session

_SECONDS_PER_HOUR = 3600


class By(StrEnum):
    """What sums are told apart by."""

    DAY = "day"
    DEPARTMENT = "department"
    USER = "user"
    JOB = "job"


_GROUPS = {
    By.DAY: Column("day", "day"),
    By.DEPARTMENT: Column("department", "project_id"),
    By.USER: Column("user", "user_id"),
    By.JOB: Column("job", "job_id"),
}
_SUMS = (
    Column("GPU-hours", lambda item: number(item["gpu_seconds"] / _SECONDS_PER_HOUR)),
    Column("tokens", "trained_tokens"),
    Column("storage, days", lambda item: size(item["storage_byte_days"])),
    Column("amount", lambda item: f"{item['amount']['value']:.2f} {item['amount']['currency']}"),
)


def usage(
    context: typer.Context,
    *,
    by: Annotated[list[By] | None, typer.Option(help="What to tell apart; may be repeated; departments.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this day on, UTC; from the month's first.")] = None,
    until: Annotated[datetime | None, typer.Option(help="To before this day, UTC; to now.")] = None,
) -> None:
    """Show what was used, and what it cost: a department's, or every department's for the operator."""
    session = Session.of(context)
    groups = list(dict.fromkeys(by or [By.DEPARTMENT]))
    query = {"group_by[]": [str(group) for group in groups], "start_time": _unix(since), "end_time": _unix(until)}
    session.output.rows(_sums(session.connection, query), (*(_GROUPS[group] for group in groups), *_SUMS))


def _sums(connection: Connection, query: Query) -> Iterator[JsonObject]:
    page: str | None = None
    while True:
        answer = connection.get("usage", query={"page": page} | dict(query))
        yield from answer["data"]
        page = answer["next_page"]
        if page is None:
            return


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())
