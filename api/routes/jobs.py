"""Fine-tuning jobs: submit, look, pause, resume, cancel."""

import re
import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from sqlalchemy.orm import Session

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.jobs import JobCheckpointObject, JobEventObject, JobObject
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission, Reach
from domain.failpoints import FailPoint, failpoint
from domain.ids import IdKind, parse_id
from domain.job_requests import JobRequest
from models_db.jobs import Job
from runtime.settings import Settings
from services import adapters, jobs, policies, waiting
from services.admissions import JobLimits

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

JobId = Annotated[str, Path(description="A job's id, `ftjob-…`.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The caller's own name for this request; the same again answers with what the first one made.",
        min_length=1,
        max_length=255,
        pattern="^[ -~]*$",
    ),
]
_METADATA = re.compile(r"metadata\[(.{1,64})\]")
_METADATA_PARAMETER = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "description": "Pairs that must all hold: `metadata[key]=value`.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}


def _object(session: Session, caller: Caller, job: Job) -> JobObject:
    return _objects(session, caller, [job])[0]


def _objects(session: Session, caller: Caller, found: Sequence[Job]) -> list[JobObject]:
    settings = caller.runtime.settings
    versions = adapters.versions_of_jobs(session, [job.id for job in found])
    reasons = waiting.reasons(session, found, lease_s=settings.lease_s, half_life_s=settings.fair_share_half_life_s)
    shown = [
        JobObject.of(job, versions.get(job.id), organisation=settings.organisation, waiting=reasons.get(job.id))
        for job in found
    ]
    if caller.principal.reach(Permission.JOB_READ) is Reach.METADATA:
        return [job.model_copy(update={"metadata": {}}) for job in shown]
    return shown


def limits_of(settings: Settings) -> JobLimits:
    """What the settings allow of a job."""
    return JobLimits(
        max_unfinished_jobs=settings.max_unfinished_jobs,
        max_total_steps=settings.max_total_steps,
        currency=settings.currency,
    )


@router.post("", summary="Submit a job", dependencies=[needs(Permission.JOB_SUBMIT)])
def create(
    caller: Authenticated,
    request: Request,
    wanted: Annotated[JobRequest, json_body(JobRequest)],
    idempotency_key: IdempotencyKey = None,
) -> JobObject:
    """Train an adapter. Everything that can be told without the base model's tokenizer is checked here.

    A repetition answers with the job already made: one of the same `Idempotency-Key`, or one that the client marks as
    such within a minute.
    """
    with caller.in_department() as session:
        job = jobs.submit(
            session,
            caller.principal,
            wanted,
            limits=limits_of(caller.runtime.settings),
            seed=secrets.randbelow(2**31),
            is_retry=request.headers.get("x-stainless-retry-count", "0") != "0",
            idempotency_key=idempotency_key,
        )
        entered = _object(session, caller, job)
    failpoint(FailPoint.SUBMIT_COMMITTED)
    return entered


@router.get("", summary="List jobs", dependencies=[needs(Permission.JOB_READ)], openapi_extra=_METADATA_PARAMETER)
def list_page(
    caller: Authenticated,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs a page.")] = 20,
) -> Page[JobObject]:
    """The department's jobs, newest first."""
    pairs = {match[1]: value for key, value in request.query_params.items() if (match := _METADATA.fullmatch(key))}
    cursor = None if after is None else parse_id(IdKind.JOB, after)
    with caller.in_department() as session:
        found, has_more = jobs.list_page(session, caller.principal, after=cursor, limit=limit, metadata=pairs)
        return page_of(_objects(session, caller, found), has_more=has_more)


@router.get("/{job_id}", summary="Look at a job", dependencies=[needs(Permission.JOB_READ)])
def retrieve(caller: Authenticated, job_id: JobId) -> JobObject:
    """A job, its settings in force and how far it is."""
    with caller.in_department() as session:
        return _object(session, caller, jobs.get(session, caller.principal, parse_id(IdKind.JOB, job_id)))


@router.post("/{job_id}/cancel", summary="Cancel a job", dependencies=[needs(Permission.JOB_CANCEL)])
def cancel(caller: Authenticated, job_id: JobId) -> JobObject:
    """End a waiting job at once; ask the worker of a running one to stop, which takes until its next heartbeat."""
    with caller.in_department() as session:
        job = jobs.request_cancel(session, caller.principal, parse_id(IdKind.JOB, job_id))
        return _object(session, caller, job)


@router.post("/{job_id}/pause", summary="Pause a job", dependencies=[needs(Permission.JOB_CANCEL)])
def pause(caller: Authenticated, job_id: JobId) -> JobObject:
    """Take a waiting job out of the queue at once; ask the worker of a running one for a checkpoint and its device."""
    with caller.in_department() as session:
        job = jobs.request_pause(session, caller.principal, parse_id(IdKind.JOB, job_id))
        return _object(session, caller, job)


@router.post("/{job_id}/resume", summary="Resume a job", dependencies=[needs(Permission.JOB_CANCEL)])
def resume(caller: Authenticated, job_id: JobId) -> JobObject:
    """Queue a paused job again: it goes on from its newest checkpoint."""
    with caller.in_department() as session:
        job = jobs.resume(session, caller.principal, parse_id(IdKind.JOB, job_id))
        return _object(session, caller, job)


@router.get("/{job_id}/events", summary="Read a job's events", dependencies=[needs(Permission.JOB_READ)])
def list_events(
    caller: Authenticated,
    job_id: JobId,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events a page.")] = 20,
) -> Page[JobEventObject]:
    """The job's story and its measurements, newest first."""
    job = parse_id(IdKind.JOB, job_id)
    cursor = None if after is None else parse_id(IdKind.JOB_EVENT, after)
    with caller.in_department() as session:
        found, has_more = jobs.list_events(session, caller.principal, job, after=cursor, limit=limit)
        return page_of(map(JobEventObject.of, found), has_more=has_more)


@router.get("/{job_id}/checkpoints", summary="List a job's checkpoints", dependencies=[needs(Permission.JOB_READ)])
def list_checkpoints(
    caller: Authenticated,
    job_id: JobId,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Checkpoints a page.")] = 10,
) -> Page[JobCheckpointObject]:
    """The points that the job has reached and stored, newest first; it can go on from those that are not erased."""
    cursor = None if after is None else parse_id(IdKind.JOB_CHECKPOINT, after)
    organisation = caller.runtime.settings.organisation
    with caller.in_department() as session:
        ttl = policies.checkpoint_ttl(session, caller.runtime.settings.checkpoint_ttl)
        job = jobs.get(session, caller.principal, parse_id(IdKind.JOB, job_id))
        found, has_more = jobs.list_checkpoints(session, caller.principal, job.id, after=cursor, limit=limit)
        return page_of(
            (JobCheckpointObject.of(point, job, organisation=organisation, ttl=ttl) for point in found),
            has_more=has_more,
        )
