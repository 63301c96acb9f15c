"""What query parameters of several routes stand for."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import Field

from domain.ids import parse_any_id

DAY = timedelta(days=1)
# Every id is a UUID of version 7; this one is nobody's.
_NOBODY = UUID(int=0)
# The year 9999, beyond which there is no datetime; a day less, so that there is one after the last.
_MAX_SECONDS = 253_402_214_400
UnixSeconds = Annotated[int, Field(ge=0, lt=_MAX_SECONDS)]


def keys_of(ids: Sequence[str]) -> list[UUID]:
    """The UUIDs of ids; what is no id stands for nobody, as an unknown one does."""
    return [parse_any_id(text) or _NOBODY for text in ids]


def days_of(start: int | None, end: int | None) -> tuple[date, date]:
    """The first day, UTC, and the one after the last, of the seconds from `start` to `end`, which is not among them.

    From the first of this month and to now where they are left out.
    """
    now = datetime.now(UTC)
    first = now.date().replace(day=1) if start is None else datetime.fromtimestamp(start, UTC).date()
    last_moment = now if end is None else datetime.fromtimestamp(max(0, end - 1), UTC)
    return first, last_moment.date() + DAY
