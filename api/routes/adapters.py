"""Adapters and their versions: look, and pull."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller
from api.objects.adapters import AdapterObject, AdapterVersionObject
from api.objects.shape import Page, page_of
from api.pages import After
from api.tar import TarMember, stream_tar, tar_bytes
from domain.access import PrincipalType
from domain.digests import Digest, Manifest, ManifestFile
from domain.ids import IdKind, parse_id
from domain.refusals import ArtifactMissing
from models_db.adapters import AdapterVersion
from models_db.base_models import BaseModel
from models_db.jobs import Job
from services import adapters
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key

log = logging.getLogger(__name__)

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

    Recorded before the first byte, and once more after the last. A version with a file that is missing or damaged is
    refused as `artifact_missing`; what shows only in the bytes breaks the download off. Either is recorded.
    """
    with caller.in_department() as session:
        _adapter, version = adapters.open_download(session, caller.principal, name, reference)
    manifest = Manifest.model_validate(version.manifest, strict=False)
    stored = StoredVersion(caller, version)
    # All of them before the first byte: then it is an answer, and not a download that breaks off.
    for file in manifest.files:
        stored.check(file)
    members = [TarMember(file.path, file.bytes, file.digest) for file in manifest.files]
    size_bytes = tar_bytes(members)

    def sent() -> None:
        with caller.in_department() as session:
            adapters.close_download(session, caller.principal, version, size_bytes)

    chunks = stream_tar(members, modified=int(version.created_at.timestamp()), read=stored.read, done=sent)
    headers = {
        "content-length": str(size_bytes),
        "content-disposition": f'attachment; filename="{name}-{version.number}.tar"',
        "x-adapter-digest": version.digest,
    }
    return StreamingResponse(chunks, media_type="application/x-tar", headers=headers)


@dataclass(frozen=True)
class StoredVersion:
    """A version's files in the object store. What is wrong with one is recorded, and raised on."""

    caller: Caller
    version: AdapterVersion

    def check(self, file: ManifestFile) -> None:
        """Whether the object is there and as long as it should be. Raises ArtifactMissing."""
        try:
            whole = self.caller.runtime.objects.size_of(self._key(file.digest)) == file.bytes
        except ObjectMissing:
            whole = False
        if not whole:
            self._report(file.digest)
            raise ArtifactMissing("A file of this version is missing from storage, or damaged. It is recorded.")

    def read(self, digest: Digest) -> Iterator[bytes]:
        """The bytes. Raises ObjectMissing here, and DigestMismatch before the last of them."""
        with self._reporting(digest):
            chunks = self.caller.runtime.objects.stream(self._key(digest), digest)
        return self._watched(chunks, digest)

    def _watched(self, chunks: Iterator[bytes], digest: Digest) -> Iterator[bytes]:
        with self._reporting(digest):
            yield from chunks

    @contextmanager
    def _reporting(self, digest: Digest) -> Iterator[None]:
        try:
            yield
        except (ObjectMissing, DigestMismatch):
            self._report(digest)
            raise

    def _key(self, digest: Digest) -> Key:
        return Key.blob(self.caller.department, digest)

    def _report(self, digest: Digest) -> None:
        log.error("adapter version %s: the object %s is missing or damaged", self.version.id, digest)
        with self.caller.in_department() as session:
            adapters.report_damage(session, self.caller.principal, self.version, digest)
