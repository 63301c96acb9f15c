"""Versions for other departments: in the client's words at the owner's, and what they have at the others'."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.downloads import TAR_RESPONSE, Beside, StoredFiles, as_tar
from api.objects.grants import ShareDeleted, SharedVersionObject, ShareObject, ShareRequest
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission
from domain.digests import Digest
from domain.ids import IdKind, parse_id
from models_db.base_models import BaseModel
from services import attestations, shares
from services.shares import ShareFilter
from signing.envelopes import seal

router = APIRouter(prefix="/v1", tags=["Sharing"])

Model = Annotated[str, Path(description="A version's name as a model, `ft:…`.")]
ShareId = Annotated[str, Path(description="`cp_…`.")]
_PERMISSIONS = "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"


@router.post(_PERMISSIONS, summary="Ask to share a version", dependencies=[needs(Permission.SHARE_REQUEST)])
def create(
    caller: Authenticated,
    fine_tuned_model_checkpoint: Model,
    wanted: Annotated[ShareRequest, json_body(ShareRequest)],
) -> Page[ShareObject]:
    """Ask that other departments may pull an approved version for a time. They may once an approver has let it."""
    departments = [parse_id(IdKind.DEPARTMENT, each) for each in wanted.project_ids]
    lasts = wanted.lasts(caller.runtime.settings.grant_max_age)
    with caller.in_department() as session:
        asked = shares.request(session, caller.principal, fine_tuned_model_checkpoint, departments, lasts=lasts)
        return page_of(map(ShareObject.of, asked))


@router.get(_PERMISSIONS, summary="List with whom a version is shared", dependencies=[needs(Permission.SHARE_READ)])
def list_page(
    caller: Authenticated,
    fine_tuned_model_checkpoint: Model,
    *,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Shares a page.")] = 10,
    order: Annotated[Literal["ascending", "descending"], Query(description="By the time of asking.")] = "descending",
    project_id: Annotated[str | None, Query(description="Only with this department.")] = None,
) -> Page[ShareObject]:
    """Shares asked for and in force."""
    wanted = ShareFilter(
        model=fine_tuned_model_checkpoint,
        department=None if project_id is None else parse_id(IdKind.DEPARTMENT, project_id),
        after=None if after is None else parse_id(IdKind.VERSION_SHARE, after),
        ascending=order == "ascending",
        limit=limit,
    )
    with caller.in_department() as session:
        found, has_more = shares.list_page(session, caller.principal, wanted)
        return page_of(map(ShareObject.of, found), has_more=has_more)


@router.delete(f"{_PERMISSIONS}/{{permission_id}}", summary="End a share", dependencies=[needs(Permission.SHARE_END)])
def delete(caller: Authenticated, fine_tuned_model_checkpoint: Model, permission_id: ShareId) -> ShareDeleted:
    """End it with the next request, or turn the request down."""
    share = parse_id(IdKind.VERSION_SHARE, permission_id)
    with caller.in_department() as session:
        shares.end(session, caller.principal, share, model=fine_tuned_model_checkpoint)
    return ShareDeleted(id=permission_id)


@router.get("/shares", summary="List the department's shares", dependencies=[needs(Permission.SHARE_READ)])
def list_all(
    caller: Authenticated,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Shares a page.")] = 20,
) -> Page[ShareObject]:
    """Of every version: what waits for an approver, and what is in force."""
    wanted = ShareFilter(after=None if after is None else parse_id(IdKind.VERSION_SHARE, after), limit=limit)
    with caller.in_department() as session:
        found, has_more = shares.list_page(session, caller.principal, wanted)
        return page_of(map(ShareObject.of, found), has_more=has_more)


@router.post("/shares/{share_id}/approve", summary="Approve a share", dependencies=[needs(Permission.SHARE_APPROVE)])
def approve(caller: Authenticated, share_id: ShareId) -> ShareObject:
    """Let the other department have the version, as long as it stays approved."""
    with caller.in_department() as session:
        return ShareObject.of(shares.approve(session, caller.principal, parse_id(IdKind.VERSION_SHARE, share_id)))


# --- at the other department ------------------------------------------------------------------------------------------


@router.get("/shared_versions", summary="List what others share", dependencies=[needs(Permission.ADAPTER_READ)])
def list_shared(caller: Authenticated) -> Page[SharedVersionObject]:
    """Approved versions of other departments, as long as they are shared with one's own."""
    with caller.in_department() as session:
        found = shares.list_shared(session, caller.principal)
        names = {each.base_model_id: session.get_one(BaseModel, each.base_model_id).name for each in found}
        return page_of(SharedVersionObject.of(each, base_model=names[each.base_model_id]) for each in found)


@router.get(
    "/shared_versions/{shared_id}/content",
    summary="Pull a shared version",
    dependencies=[needs(Permission.ADAPTER_DOWNLOAD, Permission.ADAPTER_DOWNLOAD_APPROVED)],
    response_class=StreamingResponse,
    responses=TAR_RESPONSE,
)
def content(caller: Authenticated, shared_id: ShareId) -> StreamingResponse:
    """The PEFT folder as a tar, as its owner gets it. Recorded in both departments' trails."""
    with caller.in_department() as session:
        shared = shares.open_download(session, caller.principal, parse_id(IdKind.VERSION_SHARE, shared_id))
        attested = attestations.of_shared(session, shared.share_id)
        approval = shares.approval_of(session, shared, caller.runtime.settings.organisation)

    def sent(size_bytes: int) -> None:
        with caller.in_department() as session:
            shares.close_download(session, caller.principal, shared, size_bytes)

    def report(digest: Digest) -> None:
        with caller.in_department() as session:
            shares.report_damage(session, caller.principal, shared, digest)

    stored = StoredFiles(caller.runtime.objects, shared.owner_id, on_damage=report)
    beside = Beside(attested, seal(approval.statement(), caller.runtime.signing_key))
    return as_tar(
        stored, shared.manifest, beside, name=f"{shared.adapter}-{shared.number}", made_at=shared.created_at, sent=sent
    )
