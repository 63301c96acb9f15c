"""Adapters and their versions: look, and pull."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller, needs
from api.downloads import TAR_RESPONSE, Beside, StoredFiles, as_tar
from api.objects.adapters import AdapterObject, AdapterVersionObject
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission, PrincipalType, Reach
from domain.digests import Digest, Manifest
from domain.ids import IdKind, parse_id
from models_db.adapters import AdapterVersion
from models_db.base_models import BaseModel
from models_db.jobs import Job
from services import adapters, attestations, versions
from signing.envelopes import seal

router = APIRouter(prefix="/v1/adapters", tags=["Adapters"])

Name = Annotated[str, Path(description="An adapter's name.")]
Reference = Annotated[str, Path(description="A version's number, or an alias such as `latest`.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Objects a page.")]


def version_object(session: Session, caller: Caller, version: AdapterVersion, *, adapter: str) -> AdapterVersionObject:
    """A version with the names that its row points at; who sees metadata alone sees nothing that was written to it."""
    job = None if version.job_id is None else session.get_one(Job, version.job_id)
    by_user = (job.submitted_by_type if job else version.created_by_type) == PrincipalType.USER
    shown = AdapterVersionObject.of(
        version,
        adapter=adapter,
        base_model=session.get_one(BaseModel, version.base_model_id).name,
        author=IdKind.USER if by_user else IdKind.SERVICE_ACCOUNT,
        evaluations=list(adapters.evaluations_of(session, version.id)),
    )
    if caller.principal.reach(Permission.ADAPTER_READ) is Reach.METADATA:
        return shown.model_copy(update={"labels": {}, "description": "", "state_reason": None})
    return shown


@router.get("", summary="List adapters", dependencies=[needs(Permission.ADAPTER_READ)])
def list_page(caller: Authenticated, after: After = None, limit: Limit = 20) -> Page[AdapterObject]:
    """The department's adapters, newest first."""
    cursor = None if after is None else parse_id(IdKind.ADAPTER, after)
    with caller.in_department() as session:
        found, has_more = adapters.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(
            (AdapterObject.of(adapter, adapters.aliases_of(session, adapter)) for adapter in found), has_more=has_more
        )


@router.get("/{name}", summary="Look at an adapter", dependencies=[needs(Permission.ADAPTER_READ)])
def retrieve(caller: Authenticated, name: Name) -> AdapterObject:
    """An adapter, its newest version and its aliases."""
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        return AdapterObject.of(adapter, adapters.aliases_of(session, adapter))


@router.get("/{name}/versions", summary="List an adapter's versions", dependencies=[needs(Permission.ADAPTER_READ)])
def list_versions(
    caller: Authenticated, name: Name, after: After = None, limit: Limit = 20
) -> Page[AdapterVersionObject]:
    """The versions of an adapter, newest first."""
    cursor = None if after is None else parse_id(IdKind.ADAPTER_VERSION, after)
    with caller.in_department() as session:
        found, has_more = adapters.list_versions(session, caller.principal, name, after=cursor, limit=limit)
        return page_of((version_object(session, caller, version, adapter=name) for version in found), has_more=has_more)


@router.get("/{name}/versions/{reference}", summary="Look at a version", dependencies=[needs(Permission.ADAPTER_READ)])
def retrieve_version(caller: Authenticated, name: Name, reference: Reference) -> AdapterVersionObject:
    """A version by number or alias: its files, its digest, what was measured."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        return version_object(session, caller, version, adapter=name)


@router.get(
    "/{name}/versions/{reference}/content",
    summary="Pull a version",
    dependencies=[needs(Permission.ADAPTER_DOWNLOAD, Permission.ADAPTER_DOWNLOAD_APPROVED)],
    response_class=StreamingResponse,
    responses=TAR_RESPONSE,
)
def content(caller: Authenticated, name: Name, reference: Reference) -> StreamingResponse:
    """The PEFT folder as a tar. `x-adapter-digest` names the manifest of its files, which are the same every time.

    Beside them come what they are signed with, the statement of how they were made, and, made anew for each download,
    one of where the version stands: `tsugiki verify` reads them. Recorded before the first byte, and once more after
    the last. A version with a file that is missing or damaged is refused as `artifact_missing`; what shows only in the
    bytes breaks the download off. Either is recorded.
    """
    with caller.in_department() as session:
        adapter, version = versions.open_download(session, caller.principal, name, reference)
        attested = attestations.of_version(session, version.id)
        approval = attestations.approval_of(session, adapter, version, caller.runtime.settings.organisation)

    def sent(size_bytes: int) -> None:
        with caller.in_department() as session:
            versions.close_download(session, caller.principal, version, size_bytes)

    def report(digest: Digest) -> None:
        with caller.in_department() as session:
            versions.report_damage(session, caller.principal, version, digest)

    manifest = Manifest.model_validate(version.manifest, strict=False)
    stored = StoredFiles(caller.runtime.objects, caller.department, on_damage=report)
    beside = Beside(attested, seal(approval.statement(), caller.runtime.signing_key))
    return as_tar(stored, manifest, beside, name=f"{name}-{version.number}", made_at=version.created_at, sent=sent)
