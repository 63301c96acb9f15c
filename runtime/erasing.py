"""Blobs out of the object store, by the rules of `services.blobs`: signed, announced, sent."""

from collections.abc import Callable, Collection
from uuid import UUID

from sqlalchemy.orm import Session

from domain.digests import Digest
from runtime.wiring import Runtime
from services import blobs
from services.blobs import ERASE_WITHIN_S, Announced
from storage.keys import Key


def erase_blobs(
    runtime: Runtime, department: UUID, digests: Collection[Digest], announce: Callable[[Session], Announced]
) -> list[Digest]:
    """Erase those of the blobs that `announce` finds no row for; which of them are gone. Raises StorageUnavailable."""
    # Signed before they are announced: what is stopped in between comes too late, and the store refuses it.
    keys = {digest: Key.blob(department, digest) for digest in digests}
    signed = runtime.objects.presign_erase(keys.values(), ttl_s=ERASE_WITHIN_S)
    with runtime.department(department) as session:
        announced = announce(session)
    erased = [
        digest for digest in announced.digests if runtime.objects.erase_presigned(keys[digest], signed[keys[digest]])
    ]
    with runtime.department(department) as session:
        blobs.end(session, announced, erased)
    return erased
