"""What was used and what it cost: day by day as the client asks for it, and summed as anyone likes."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.deps import Authenticated, Caller
from api.objects.usage import CostsBucketObject, CostsPage, UsageObject, UsagePage
from domain.ids import parse_any_id
from domain.refusals import Invalid
from services import usage
from services.usage import Grouping, UsageFilter, UsageSum

router = APIRouter(prefix="/v1", tags=["Usage"])

_NOBODY = UUID(int=0)
_DAY = timedelta(days=1)
# The year 9999, beyond which there is no datetime.
_MAX_SECONDS = 253_402_214_400
Seconds = Annotated[int, Field(ge=0, lt=_MAX_SECONDS)]
_COSTS_BY = {
    "project_id": Grouping.DEPARTMENT,
    "user_id": Grouping.USER,
    "line_item": Grouping.ITEM,
    "api_key_id": Grouping.KEY,
}


class CostsQuery(BaseModel):
    """Which costs. Lists are alternatives."""

    start_time: Seconds = Field(description="The first day is the one with this second.")
    end_time: Seconds | None = Field(default=None, description="The last day is the one before this second; now.")
    bucket_width: Literal["1d"] = Field(default="1d", description="Always a day, UTC.")
    group_by: list[Literal["project_id", "user_id", "line_item", "api_key_id"]] = Field(
        default=[], alias="group_by[]", description="What to tell apart."
    )
    project_ids: list[str] = Field(default=[], alias="project_ids[]", description="Of which departments.")
    api_key_ids: list[str] = Field(default=[], alias="api_key_ids[]", description="Of jobs submitted with which keys.")
    line_items: list[str] = Field(default=[], alias="line_items[]", description="`gpu`, `storage`.")
    limit: int = Field(default=7, ge=1, le=180, description="Days a page.")
    page: str | None = Field(default=None, description="`next_page` of the page before.", max_length=32)


@router.get("/organization/costs", summary="Look at costs")
def costs(caller: Authenticated, query: Annotated[CostsQuery, Query()]) -> CostsPage:
    """What leases that ended and storage cost, day by day.

    A department's admin sees the department's, the operator and the auditor those of all.
    """
    first, end = _days(query.start_time, query.end_time)
    if query.page is not None:
        first = max(first, _day_of_page(query.page))
    stop = first + min(query.limit, max(0, (end - first).days)) * _DAY
    wanted = UsageFilter(
        first=first,
        end=stop,
        by=frozenset({Grouping.DAY, *(_COSTS_BY[name] for name in query.group_by)}),
        departments=_keys(query.project_ids),
        keys=_keys(query.api_key_ids),
        items=query.line_items or None,
    )
    by_day = {day: list(sums) for day, sums in groupby(_read(caller, wanted), key=lambda used: used.day)}
    currency = caller.runtime.settings.currency
    days = [first + place * _DAY for place in range((stop - first).days)]
    return CostsPage(
        data=[CostsBucketObject.of(day, by_day.get(day, []), currency=currency) for day in days],
        has_more=stop < end,
        next_page=stop.isoformat() if stop < end else None,
    )


class UsageQuery(BaseModel):
    """Which use. Lists are alternatives."""

    start_time: Seconds | None = Field(
        default=None, description="The first day is the one with this second; the first of this month."
    )
    end_time: Seconds | None = Field(default=None, description="The last day is the one before this second; now.")
    group_by: list[Literal["day", "department", "user", "job"]] = Field(
        default=["department"], alias="group_by[]", description="What to tell apart."
    )
    project_ids: list[str] = Field(default=[], alias="project_ids[]", description="Of which departments.")
    limit: int = Field(default=1000, ge=1, le=10_000, description="Sums a page.")
    page: str | None = Field(default=None, description="`next_page` of the page before.", pattern="^[0-9]{1,9}$")


@router.get("/usage", summary="Look at what was used")
def used(caller: Authenticated, query: Annotated[UsageQuery, Query()]) -> UsagePage:
    """GPU-seconds, tokens, storage and their price, summed. Leases count on the day in which they ended.

    A department's admin sees the department's, the operator and the auditor those of all.
    """
    first, end = _days(query.start_time, query.end_time)
    offset = int(query.page or 0)
    wanted = UsageFilter(
        first=first,
        end=end,
        by=frozenset(Grouping(name) for name in query.group_by),
        departments=_keys(query.project_ids),
        offset=offset,
        limit=query.limit + 1,
    )
    sums, currency = _read(caller, wanted), caller.runtime.settings.currency
    has_more = len(sums) > query.limit
    return UsagePage(
        data=[UsageObject.of(used, currency=currency) for used in sums[: query.limit]],
        has_more=has_more,
        next_page=str(offset + query.limit) if has_more else None,
    )


def _read(caller: Caller, wanted: UsageFilter) -> Sequence[UsageSum]:
    with caller.anywhere() as session:
        return usage.read(session, caller.principal, wanted)


def _days(start: int | None, end: int | None) -> tuple[date, date]:
    """The first day, and the one after the last."""
    now = datetime.now(UTC)
    first = now.date().replace(day=1) if start is None else datetime.fromtimestamp(start, UTC).date()
    last_moment = now if end is None else datetime.fromtimestamp(max(0, end - 1), UTC)
    return first, last_moment.date() + _DAY


def _day_of_page(page: str) -> date:
    try:
        return date.fromisoformat(page)
    except ValueError:
        raise Invalid("page is not one that an answer gave as `next_page`.", param="page") from None


def _keys(given: Sequence[str]) -> list[UUID] | None:
    """The UUIDs of ids; what is no id stands for nobody, as an unknown one does. None for no filter."""
    return [parse_any_id(text) or _NOBODY for text in given] or None
