"""What a department may use at most: set by the operator, seen by its admin. The budget also in the client's words."""

from typing import Annotated

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.bodies import json_body
from api.deps import Caller, InProject, needs
from api.objects.limits import LimitsObject, SpendLimitDeleted, SpendLimitObject, SpendLimitRequest
from domain.access import Permission
from domain.limits import Allowance, LimitChange
from domain.refusals import Invalid, NotFound
from services import limits
from services.limits import LimitDefaults

router = APIRouter(prefix="/v1/organization/projects/{project_id}", tags=["Usage"])


@router.get("/limits", summary="Look at a department's limits", dependencies=[needs(Permission.QUOTA_READ)])
def retrieve(caller: InProject) -> LimitsObject:
    """The limits in force and what the department has of each; for its admin, the operator and the auditor."""
    with caller.in_department() as session:
        return _limits(session, caller)


@router.post("/limits", summary="Set a department's limits", dependencies=[needs(Permission.QUOTA_SET)])
def change(caller: InProject, wanted: Annotated[LimitChange, json_body(LimitChange)]) -> LimitsObject:
    """Set some of a department's limits; for the operator. What is beyond one already stays, and more is refused."""
    with caller.in_department() as session:
        limits.change(session, caller.principal, caller.department, wanted)
        return _limits(session, caller)


@router.get("/spend_limit", summary="Look at a department's budget", dependencies=[needs(Permission.QUOTA_READ)])
def retrieve_budget(caller: InProject) -> SpendLimitObject:
    """The month's budget as the client knows it; not found where there is none."""
    with caller.in_department() as session:
        return _budget(session, caller)


@router.post("/spend_limit", summary="Set a department's budget", dependencies=[needs(Permission.QUOTA_SET)])
def set_budget(
    caller: InProject, wanted: Annotated[SpendLimitRequest, json_body(SpendLimitRequest)]
) -> SpendLimitObject:
    """Set the limit `monthly_budget` as the client does; for the operator."""
    currency = caller.runtime.settings.currency.upper()
    if wanted.currency != currency:
        raise Invalid(f"The currency of this installation is {currency}.", param="currency")
    with caller.in_department() as session:
        budget = LimitChange(monthly_budget=wanted.budget)
        limits.change(session, caller.principal, caller.department, budget)
        return _budget(session, caller)


@router.delete("/spend_limit", summary="Take a department's budget away", dependencies=[needs(Permission.QUOTA_SET)])
def delete_budget(caller: InProject) -> SpendLimitDeleted:
    """Let the department spend without a limit; for the operator."""
    with caller.in_department() as session:
        limits.change(session, caller.principal, caller.department, LimitChange(monthly_budget=None))
    return SpendLimitDeleted()


def _limits(session: Session, caller: Caller) -> LimitsObject:
    return LimitsObject.of(caller.department, _allowance(session, caller), currency=caller.runtime.settings.currency)


def _budget(session: Session, caller: Caller) -> SpendLimitObject:
    allowance = _allowance(session, caller)
    budget = allowance.limits.monthly_budget
    if budget is None:
        raise NotFound("The department has no budget.")
    return SpendLimitObject.of(budget, allowance, currency=caller.runtime.settings.currency)


def _allowance(session: Session, caller: Caller) -> Allowance:
    settings = caller.runtime.settings
    defaults = LimitDefaults(settings.max_unfinished_jobs, settings.currency)
    return limits.get(session, caller.principal, caller.department, defaults)
