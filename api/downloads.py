"""An adapter's folder as a tar out of the object store: the same files every time, and nothing damaged in it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi.responses import StreamingResponse

from api.tar import TarMember, stream_tar, tar_bytes
from domain.attestations import APPROVAL_FILE, Attestation
from domain.digests import Digest, Manifest, digest_of
from domain.refusals import ArtifactMissing
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key
from storage.objects import ObjectStore

log = logging.getLogger(__name__)

TAR_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {}}, "description": "A tar of the PEFT folder."}
}


@dataclass(frozen=True)
class StoredFiles:
    """A department's files in the object store. What is wrong with one is told to on_damage, and raised on."""

    objects: ObjectStore
    department: UUID
    on_damage: Callable[[Digest], None]

    def check(self, file: TarMember) -> None:
        """Whether the object is there and as long as it should be. Raises ArtifactMissing."""
        try:
            whole = self.objects.size_of(self._key(file.digest)) == file.size_bytes
        except ObjectMissing:
            whole = False
        if not whole:
            self._report(file.digest)
            raise ArtifactMissing("A file of this version is missing from storage, or damaged. It is recorded.")

    def read(self, digest: Digest) -> Iterator[bytes]:
        """The bytes. Raises ObjectMissing here, and DigestMismatch before the last of them."""
        with self._reporting(digest):
            chunks = self.objects.stream(self._key(digest), digest)
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
        return Key.blob(self.department, digest)

    def _report(self, digest: Digest) -> None:
        log.error("department %s: the object %s is missing or damaged", self.department, digest)
        self.on_damage(digest)


@dataclass(frozen=True)
class Beside:
    """What comes with a version's files: what they are signed with, in the store, and a statement made just now."""

    attestations: Sequence[Attestation]
    statement: bytes


def as_tar(
    stored: StoredFiles,
    manifest: Manifest,
    beside: Beside,
    *,
    name: str,
    made_at: datetime,
    sent: Callable[[int], None],
) -> StreamingResponse:
    """The files of a manifest and what signs them; `sent` is told how many bytes, after the last of them.

    Raises ArtifactMissing.
    """
    members = [TarMember(file.path, file.bytes, file.digest) for file in manifest.files]
    members += [TarMember(each.kind.file, each.bytes, each.digest) for each in beside.attestations]
    # All of them before the first byte: then it is an answer, and not a download that breaks off.
    for member in members:
        stored.check(member)
    made = TarMember(APPROVAL_FILE, len(beside.statement), digest_of(beside.statement))
    members.append(made)
    size_bytes = tar_bytes(members)

    def read(digest: Digest) -> Iterator[bytes]:
        return iter((beside.statement,)) if digest == made.digest else stored.read(digest)

    chunks = stream_tar(members, modified=int(made_at.timestamp()), read=read, done=lambda: sent(size_bytes))
    headers = {
        "content-length": str(size_bytes),
        "content-disposition": f'attachment; filename="{name}.tar"',
        "x-adapter-digest": manifest.digest,
    }
    return StreamingResponse(chunks, media_type="application/x-tar", headers=headers)
