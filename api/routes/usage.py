"""What was used, summed as anyone likes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.deps import Authenticated, needs
from api.objects.usage import UsageObject, UsagePage
from api.queries import UnixSeconds, days_of, keys_of
from domain.access import Permission
from services import usage
from services.usage import Grouping, UsageFilter

router = APIRouter(prefix="/v1/usage", tags=["Usage"])


class UsageQuery(BaseModel):
    """Which use. Lists are alternatives."""

    start_time: UnixSeconds | None = Field(
        default=None, description="The first day is the one with this second; the first of this month."
    )
    end_time: UnixSeconds | None = Field(default=None, description="The last day is the one before this second; now.")
    group_by: list[Literal["day", "department", "user", "job"]] = Field(
        default=["department"], alias="group_by[]", description="What to tell apart."
    )
    project_ids: list[str] = Field(default=[], alias="project_ids[]", description="Of which departments.")
    limit: int = Field(default=1000, ge=1, le=10_000, description="Sums a page.")
    page: str | None = Field(default=None, description="`next_page` of the page before.", pattern="^[0-9]{1,9}$")

    @property
    def offset(self) -> int:
        """How many sums the pages before have shown."""
        return int(self.page or 0)

    def wanted(self) -> UsageFilter:
        """In the words of the service, and one sum more than a page takes."""
        first, end = days_of(self.start_time, self.end_time)
        return UsageFilter(
            first=first,
            end=end,
            by=frozenset(Grouping(name) for name in self.group_by),
            departments=keys_of(self.project_ids) or None,
            offset=self.offset,
            limit=self.limit + 1,
        )


@router.get("", summary="Look at what was used", dependencies=[needs(Permission.USAGE_READ)])
def list_page(caller: Authenticated, query: Annotated[UsageQuery, Query()]) -> UsagePage:
    """GPU-seconds, tokens, storage and their price, summed. Leases count on the day in which they ended.

    A department's admin sees the department's, the operator and the auditor those of all.
    """
    with caller.anywhere() as session:
        sums = usage.read(session, caller.principal, query.wanted())
    currency, has_more = caller.runtime.settings.currency, len(sums) > query.limit
    return UsagePage(
        data=[UsageObject.of(used, currency=currency) for used in sums[: query.limit]],
        has_more=has_more,
        next_page=str(query.offset + query.limit) if has_more else None,
    )
