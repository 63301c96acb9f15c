"""Estimates: what a job would come to, before it is submitted."""

import asyncio
import time
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from fastapi.concurrency import run_in_threadpool

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.estimates import AccuraciesObject, AccuracyObject, EstimateObject
from api.routes.jobs import limits_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.job_requests import JobRequest
from runtime.settings import Settings
from services import estimates
from services.estimates import Answer, EstimateLimits

router = APIRouter(prefix="/v1/estimates", tags=["Fine-tuning"])

POLL_S = 0.2


def _limits(settings: Settings) -> EstimateLimits:
    return EstimateLimits(
        job=limits_of(settings),
        max_training_tokens=settings.max_training_tokens,
        max_pending=settings.max_pending_estimates,
        kept_s=settings.estimate_kept_s,
        half_life_s=settings.fair_share_half_life_s,
        lease_s=settings.lease_s,
    )


@router.post("", summary="Estimate a job", dependencies=[needs(Permission.JOB_SUBMIT)])
async def create(caller: Authenticated, wanted: Annotated[JobRequest, json_body(JobRequest)]) -> EstimateObject:
    """Tell what the same body would come to as a job: figures, queue, cost, and everything that would refuse it.

    The first estimate of some rows has them counted. Where that takes longer than a few seconds the answer is
    `pending`, and `GET /v1/estimates/{id}` tells more later.
    """
    answer = await run_in_threadpool(_ask, caller, wanted)
    ends_at = time.monotonic() + caller.runtime.settings.estimate_wait_s
    # Not in a thread: all requests share a few, and who waits must not hold one.
    while answer.id is not None and time.monotonic() < ends_at:
        await asyncio.sleep(POLL_S)
        if not await run_in_threadpool(_is_pending, caller, answer.id):
            answer = await run_in_threadpool(_look, caller, answer.id)
            break
    return EstimateObject.of(answer)


def _ask(caller: Caller, wanted: JobRequest) -> Answer:
    with caller.in_department() as session:
        return estimates.ask(session, caller.principal, wanted, limits=_limits(caller.runtime.settings))


def _is_pending(caller: Caller, estimate: UUID) -> bool:
    with caller.in_department() as session:
        return estimates.is_pending(session, estimate)


def _look(caller: Caller, estimate: UUID) -> Answer:
    with caller.in_department() as session:
        return estimates.get(session, caller.principal, estimate, limits=_limits(caller.runtime.settings))


@router.get("/accuracy", summary="Look at how far off estimates were", dependencies=[needs(Permission.JOB_READ)])
def accuracy(caller: Authenticated) -> AccuraciesObject:
    """Median and ninth decile of the errors, over the ended jobs of all departments, by base model and device."""
    with caller.anywhere() as session:
        found = estimates.accuracy(session, caller.principal)
    return AccuraciesObject(data=[AccuracyObject.of(each) for each in found])


@router.get("/{estimate_id}", summary="Look at an estimate", dependencies=[needs(Permission.JOB_SUBMIT)])
def retrieve(
    caller: Authenticated, estimate_id: Annotated[str, Path(description="An estimate's id, `estimate-…`.")]
) -> EstimateObject:
    """The estimate as of now: its queue and its refusals are looked at anew. It is forgotten after an hour."""
    return EstimateObject.of(_look(caller, parse_id(IdKind.ESTIMATE, estimate_id)))
