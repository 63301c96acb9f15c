"""What was used costs, day by day, as the client asks for it."""

from datetime import date
from itertools import groupby
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.deps import Authenticated, needs
from api.objects.usage import CostsBucketObject, CostsPage
from api.queries import DAY, UnixSeconds, days_of, keys_of
from domain.access import Permission
from domain.refusals import Invalid
from services import usage
from services.usage import Grouping, UsageFilter

router = APIRouter(prefix="/v1/organization/costs", tags=["Usage"])

_BY = {
    "project_id": Grouping.DEPARTMENT,
    "user_id": Grouping.USER,
    "line_item": Grouping.ITEM,
    "api_key_id": Grouping.KEY,
}


class CostsQuery(BaseModel):
    """Which costs. Lists are alternatives."""

    start_time: UnixSeconds = Field(description="The first day is the one with this second.")
    end_time: UnixSeconds | None = Field(default=None, description="The last day is the one before this second; now.")
    bucket_width: Literal["1d"] = Field(default="1d", description="Always a day, UTC.")
    group_by: list[Literal["project_id", "user_id", "line_item", "api_key_id"]] = Field(
        default=[], alias="group_by[]", description="What to tell apart."
    )
    project_ids: list[str] = Field(default=[], alias="project_ids[]", description="Of which departments.")
    api_key_ids: list[str] = Field(default=[], alias="api_key_ids[]", description="Of jobs submitted with which keys.")
    line_items: list[str] = Field(default=[], alias="line_items[]", description="`gpu`, `storage`.")
    limit: int = Field(default=7, ge=1, le=180, description="Days a page.")
    page: str | None = Field(default=None, description="`next_page` of the page before.", max_length=32)

    def days(self) -> tuple[date, date, date]:
        """The page's first day, the one after its last, and the one after the last of all."""
        first, end = days_of(self.start_time, self.end_time)
        if self.page is not None:
            first = max(first, _day_of(self.page))
        return first, first + min(self.limit, max(0, (end - first).days)) * DAY, end

    def wanted(self, first: date, stop: date) -> UsageFilter:
        """In the words of the service."""
        return UsageFilter(
            first=first,
            end=stop,
            by=frozenset({Grouping.DAY, *(_BY[name] for name in self.group_by)}),
            departments=keys_of(self.project_ids) or None,
            keys=keys_of(self.api_key_ids) or None,
            items=self.line_items or None,
        )


@router.get("", summary="Look at costs", dependencies=[needs(Permission.USAGE_READ)])
def list_page(caller: Authenticated, query: Annotated[CostsQuery, Query()]) -> CostsPage:
    """What leases that ended and storage cost, day by day.

    A department's admin sees the department's, the operator and the auditor those of all.
    """
    first, stop, end = query.days()
    with caller.anywhere() as session:
        sums = usage.read(session, caller.principal, query.wanted(first, stop))
    by_day = {day: list(of_day) for day, of_day in groupby(sums, key=lambda used: used.day)}
    currency = caller.runtime.settings.currency
    days = [first + place * DAY for place in range((stop - first).days)]
    return CostsPage(
        data=[CostsBucketObject.of(day, by_day.get(day, []), currency=currency) for day in days],
        has_more=stop < end,
        next_page=stop.isoformat() if stop < end else None,
    )


def _day_of(page: str) -> date:
    try:
        return date.fromisoformat(page)
    except ValueError:
        raise Invalid("page is not one that an answer gave as `next_page`.", param="page") from None
