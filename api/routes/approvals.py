"""Approvals: asked for with evidence, decided by others."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.approvals import ApprovalObject, ApprovalRequestBody, CommentRequest, DecisionRequest
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission, Reach
from domain.approvals import ApprovalState
from domain.ids import IdKind, parse_id
from services import adapters, approvals
from services.approvals import Approval, ApprovalFilter

router = APIRouter(prefix="/v1/approvals", tags=["Approvals"])

ApprovalId = Annotated[str, Path(description="A request's id, `approval-…`.")]


def _object(caller: Caller, approval: Approval) -> ApprovalObject:
    shown = ApprovalObject.of(approval)
    return shown.without_text() if caller.principal.reach(Permission.APPROVAL_READ) is Reach.METADATA else shown


@router.post("", summary="Ask for an approval", dependencies=[needs(Permission.APPROVAL_REQUEST)])
def create(
    caller: Authenticated, wanted: Annotated[ApprovalRequestBody, json_body(ApprovalRequestBody)]
) -> ApprovalObject:
    """Ask for a candidate to be approved, with what speaks for it. It waits until people decide or its time is over."""
    lives = timedelta(days=caller.runtime.settings.approval_ttl_days)
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, wanted.adapter, wanted.version)
        made = approvals.request(session, caller.principal, version, wanted.evidence(), lives=lives)
        return _object(caller, made)


@router.get("", summary="List approvals", dependencies=[needs(Permission.APPROVAL_READ)])
def list_page(
    *,
    caller: Authenticated,
    waiting_for: Annotated[
        Literal["me"] | None, Query(description="`me`: only what the caller can decide now.")
    ] = None,
    state: Annotated[ApprovalState | None, Query(description="Only requests in this state.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Requests a page.")] = 20,
) -> Page[ApprovalObject]:
    """The department's requests, newest first; with `waiting_for=me` the caller's queue."""
    wanted = ApprovalFilter(
        waiting_for_me=waiting_for == "me",
        state=state,
        after=None if after is None else parse_id(IdKind.APPROVAL, after),
        limit=limit,
    )
    with caller.in_department() as session:
        found, has_more = approvals.list_page(session, caller.principal, wanted)
        return page_of([_object(caller, each) for each in found], has_more=has_more)


@router.get("/{approval_id}", summary="Look at an approval", dependencies=[needs(Permission.APPROVAL_READ)])
def retrieve(caller: Authenticated, approval_id: ApprovalId) -> ApprovalObject:
    """A request, its evidence, and what was said and decided."""
    with caller.in_department() as session:
        found = approvals.get(session, caller.principal, parse_id(IdKind.APPROVAL, approval_id))
        return _object(caller, found)


@router.post("/{approval_id}/decision", summary="Decide an approval", dependencies=[needs(Permission.APPROVAL_DECIDE)])
def decide(
    caller: Authenticated, approval_id: ApprovalId, wanted: Annotated[DecisionRequest, json_body(DecisionRequest)]
) -> ApprovalObject:
    """Approve or reject a version, for exactly the bytes of the digest; never one's own, nor what one asked for."""
    approval = parse_id(IdKind.APPROVAL, approval_id)
    with caller.in_department() as session:
        decided = approvals.decide(
            session, caller.principal, approval, wanted.decision, digest=wanted.digest, comment=wanted.comment
        )
        return _object(caller, decided)


@router.post(
    "/{approval_id}/comments", summary="Comment on an approval", dependencies=[needs(Permission.APPROVAL_COMMENT)]
)
def comment(
    caller: Authenticated, approval_id: ApprovalId, wanted: Annotated[CommentRequest, json_body(CommentRequest)]
) -> ApprovalObject:
    """Say something to a request, before or after it is decided."""
    approval = parse_id(IdKind.APPROVAL, approval_id)
    with caller.in_department() as session:
        return _object(caller, approvals.comment(session, caller.principal, approval, wanted.comment))


@router.post(
    "/{approval_id}/withdraw", summary="Withdraw an approval", dependencies=[needs(Permission.APPROVAL_WITHDRAW)]
)
def withdraw(caller: Authenticated, approval_id: ApprovalId) -> ApprovalObject:
    """Take back a request that nobody has decided: one's own, or any as an admin."""
    with caller.in_department() as session:
        found = approvals.withdraw(session, caller.principal, parse_id(IdKind.APPROVAL, approval_id))
        return _object(caller, found)
