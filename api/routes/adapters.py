"""Adapters and their versions: look, and pull."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.deps import Authenticated
from api.objects.adapters import AdapterObject, AdapterVersionObject
from api.objects.shape import Page, page_of
from api.pages import After
from api.tar import TarMember, stream_tar, tar_bytes
from domain.access import PrincipalType
from domain.digests import Manifest
from domain.ids import IdKind, parse_id
from models_db.adapters import AdapterVersion
from models_db.base_models import BaseModel
from models_db.jobs import Job
from services import adapters
from storage.keys import Key

router = APIRouter(prefix="/v1/adapters", tags=["Adapters"])

Name = Annotated[str, Path(description="An adapter's name.")]
Reference = Annotated[str, Path(description="A version's number, or an alias such as `latest`.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Objects a page.")]


def _version(session: Session, version: AdapterVersion, *, adapter: str) -> AdapterVersionObject:
    by_user = session.get_one(Job, version.job_id).submitted_by_type == PrincipalType.USER
    return AdapterVersionObject.of(
        version,
        adapter=adapter,
        base_model=session.get_one(BaseModel, version.base_model_id).name,
        author=IdKind.USER if by_user else IdKind.SERVICE_ACCOUNT,
        evaluations=list(adapters.evaluations_of(session, version.id)),
    )


@router.get("", summary="List adapters")
def list_page(caller: Authenticated, after: After = None, limit: Limit = 20) -> Page[AdapterObject]:
    """The department's adapters, newest first."""
    cursor = None if after is None else parse_id(IdKind.ADAPTER, after)
    with caller.in_department() as session:
        found, has_more = adapters.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(
            (AdapterObject.of(adapter, adapters.aliases_of(session, adapter)) for adapter in found), has_more=has_more
        )


@router.get("/{name}", summary="Look at an adapter")
def retrieve(caller: Authenticated, name: Name) -> AdapterObject:
    """An adapter, its newest version and its aliases."""
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        return AdapterObject.of(adapter, adapters.aliases_of(session, adapter))


@router.get("/{name}/versions", summary="List an adapter's versions")
def list_versions(
    caller: Authenticated, name: Name, after: After = None, limit: Limit = 20
) -> Page[AdapterVersionObject]:
    """The versions of an adapter, newest first."""
    cursor = None if after is None else parse_id(IdKind.ADAPTER_VERSION, after)
    with caller.in_department() as session:
        found, has_more = adapters.list_versions(session, caller.principal, name, after=cursor, limit=limit)
        return page_of((_version(session, version, adapter=name) for version in found), has_more=has_more)


@router.get("/{name}/versions/{reference}", summary="Look at a version")
def retrieve_version(caller: Authenticated, name: Name, reference: Reference) -> AdapterVersionObject:
    """A version by number or alias: its files, its digest, what was measured."""
    with caller.in_department() as session:
        return _version(session, adapters.get_version(session, caller.principal, name, reference), adapter=name)


@router.get(
    "/{name}/versions/{reference}/content",
    summary="Pull a version",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {}}, "description": "A tar of the PEFT folder."}},
)
def content(caller: Authenticated, name: Name, reference: Reference) -> StreamingResponse:
    """The PEFT folder as a tar, the same bytes every time. `x-adapter-digest` names the manifest.

    Recorded before the first byte, and once more after the last.
    """
    with caller.in_department() as session:
        _adapter, version = adapters.open_download(session, caller.principal, name, reference)
    manifest = Manifest.model_validate(version.manifest, strict=False)
    members = [TarMember(file.path, file.bytes, file.digest) for file in manifest.files]
    size_bytes = tar_bytes(members)

    def sent() -> None:
        with caller.in_department() as session:
            adapters.close_download(session, caller.principal, version, size_bytes)

    chunks = stream_tar(
        members,
        modified=int(version.created_at.timestamp()),
        read=lambda digest: caller.runtime.objects.stream(Key.blob(caller.department, digest), digest),
        done=sent,
    )
    headers = {
        "content-length": str(size_bytes),
        "content-disposition": f'attachment; filename="{name}-{version.number}.tar"',
        "x-adapter-digest": version.digest,
    }
    return StreamingResponse(chunks, media_type="application/x-tar", headers=headers)
