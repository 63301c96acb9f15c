"""Saved questions to the audit trail, and how well it is proved."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from api.deps import Authenticated, needs
from api.objects.audit_queries import AnswerObject, SavedQueryObject
from api.objects.audit_status import AuditStatusObject
from api.objects.shape import Page, page_of
from api.queries import keys_of
from domain.access import Permission
from services import audit_queries, sealing
from services.audit_queries import QUERIES, Asked, Parameter, SavedQuery, Source

router = APIRouter(prefix="/v1/audit", tags=["Audit"])

_ASKERS = [needs(Permission.AUDIT_READ_ALL, Permission.AUDIT_READ_DEPARTMENT)]


class Subject(BaseModel):
    """What is asked about."""

    file: str | None = Field(default=None, description="A file's id.")
    version: str | None = Field(default=None, description="A version's id.")
    adapter: str | None = Field(default=None, description="An adapter's id.")
    actor: str | None = Field(default=None, description="A user's or a service account's id.")
    request: str | None = Field(default=None, description="`x-request-id` of a request.")
    days: int | None = Field(default=None, ge=1, le=36_500, description="How many days back.")


@router.get("/status", summary="Does the sealer keep up?", dependencies=[needs(Permission.AUDIT_READ_STATUS)])
def status(caller: Authenticated) -> AuditStatusObject:
    """For monitoring: how long events wait for the seal that proves them."""
    with caller.runtime.auditor() as session:
        lag_s = sealing.watch(session, caller.principal)
    return AuditStatusObject(seal_lag_s=round(lag_s, 3), alarm=lag_s > sealing.ALARM_AFTER_S)


@router.get("/queries", summary="List the saved questions", dependencies=_ASKERS)
def list_page(_caller: Authenticated) -> Page[SavedQueryObject]:
    """What can be asked by name, and what each needs to be told."""
    return page_of(map(SavedQueryObject.of, QUERIES.values()))


@router.get("/queries/{query}", summary="Ask a saved question", dependencies=_ASKERS)
def ask(
    caller: Authenticated,
    query: Annotated[str, Path(description="The question's name.")],
    subject: Annotated[Subject, Query()],
) -> AnswerObject:
    """Its answer, of all departments for an auditor who chose none. That it was asked is recorded."""
    found = audit_queries.find(query)
    asked = Asked(subject=_subject_of(found, subject), department=caller.principal.department, days=subject.days)
    of_all = caller.principal.may(Permission.AUDIT_READ_ALL) and found.source is Source.TRAIL
    with caller.runtime.auditor() if of_all else caller.in_department() as session:
        return AnswerObject.of(found, audit_queries.ask(session, caller.principal, found, asked))


def _subject_of(query: SavedQuery, subject: Subject) -> UUID | str | None:
    told: str | None = None if query.needs is None else getattr(subject, query.needs)
    if told is None:
        return None
    return told if query.needs is Parameter.REQUEST else keys_of([told])[0]
