"""The audit trail, in the client's query language."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller, needs
from api.objects.audit import AuditLogObject
from api.objects.shape import Page, page_of
from api.queries import keys_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import audit
from services.audit import AuditFilter

router = APIRouter(prefix="/v1/organization/audit_logs", tags=["Audit"])

_TICK = timedelta(microseconds=1)
# The year 9999, beyond which there is no datetime.
_MAX_SECONDS = 253_402_300_799
Seconds = Annotated[int, Field(ge=1, lt=_MAX_SECONDS)] | None


class AuditQuery(BaseModel):
    """What to look for. Lists are alternatives."""

    event_types: list[str] = Field(default=[], alias="event_types[]", description="What happened.")
    project_ids: list[str] = Field(default=[], alias="project_ids[]", description="In which departments.")
    actor_ids: list[str] = Field(
        default=[], alias="actor_ids[]", description="Who: ids of users, service accounts or keys."
    )
    actor_emails: list[str] = Field(
        default=[], alias="actor_emails[]", description="Who: people by their e-mail addresses of today."
    )
    tenant_only: bool = Field(default=False, description="As the client has it: events that concern no department.")
    resource_ids: list[str] = Field(
        default=[], alias="resource_ids[]", description="To what, or what else it touched: ids of any kind."
    )
    outcomes: list[str] = Field(default=[], alias="outcomes[]", description="`success`, `denied`, `failure`. Ours.")
    gte: Seconds = Field(default=None, alias="effective_at[gte]", description="In this second or after.")
    gt: Seconds = Field(default=None, alias="effective_at[gt]", description="After this second.")
    lte: Seconds = Field(default=None, alias="effective_at[lte]", description="In this second or before.")
    lt: Seconds = Field(default=None, alias="effective_at[lt]", description="Before this second.")
    after: str | None = Field(default=None, description="Id of the last event of the page before.")
    before: str | None = Field(default=None, description="Id of the first event of the page after.")
    limit: int = Field(default=20, ge=1, le=100, description="Events a page.")

    def wanted(self, people: Sequence[UUID]) -> AuditFilter:
        """In the words of the service. Times are shown in whole seconds, so they are compared as such.

        people are those behind the e-mail addresses; an address of nobody's stands for nobody.
        """
        return AuditFilter(
            actions=self.event_types,
            departments=keys_of(self.project_ids),
            actors=[*keys_of(self.actor_ids), *people],
            platform_only=self.tenant_only,
            resources=keys_of(self.resource_ids),
            outcomes=self.outcomes,
            since=_moment(max((second for second in (self.gte, _next(self.gt)) if second is not None), default=None)),
            until=_end(min((second for second in (_next(self.lte), self.lt) if second is not None), default=None)),
            after=None if self.after is None else parse_id(IdKind.AUDIT_EVENT, self.after),
            before=None if self.before is None else parse_id(IdKind.AUDIT_EVENT, self.before),
            limit=self.limit,
        )


@router.get(
    "",
    summary="Read the audit trail",
    dependencies=[needs(Permission.AUDIT_READ_ALL, Permission.AUDIT_READ_DEPARTMENT, Permission.AUDIT_READ_OWN)],
)
def list_page(caller: Authenticated, query: Annotated[AuditQuery, Query()]) -> Page[AuditLogObject]:
    """Who did what to what, newest first. An auditor reads all departments, an admin their own, others their own acts.

    The reading is itself recorded.
    """
    people: Sequence[UUID] = ()
    if query.actor_emails:
        # Names are not in the trail: they are looked up where they can be erased.
        with caller.runtime.platform() as session:
            people = audit.people_of(session, query.actor_emails)
    with _session(caller) as session:
        found, has_more = audit.read(session, caller.principal, query.wanted(people))
        return page_of(map(AuditLogObject.of, found), has_more=has_more)


def _session(caller: Caller) -> AbstractContextManager[Session]:
    return caller.runtime.auditor() if caller.principal.may(Permission.AUDIT_READ_ALL) else caller.in_department()


def _next(second: int | None) -> int | None:
    return None if second is None else second + 1


def _moment(second: int | None) -> datetime | None:
    return None if second is None else datetime.fromtimestamp(second, UTC)


def _end(second: int | None) -> datetime | None:
    """The last moment before a second."""
    return None if second is None else datetime.fromtimestamp(second, UTC) - _TICK
