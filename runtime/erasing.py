"""Blobs out of the object store, by the rules of `services.blobs`: signed, announced, sent."""

from collections.abc import Callable, Collection
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from domain.digests import Digest
from runtime.wiring import Runtime
from services import blobs
from services.blobs import ERASE_WITHIN_S, Announced
from storage.keys import Key


class Erased(NamedTuple):
    """Blobs that are gone, and those whose request came too late: they may be asked for again."""

    gone: list[Digest]
    late: list[Digest]


def erase_blobs(
    runtime: Runtime, department: UUID, digests: Collection[Digest], announce: Callable[[Session], Announced]
) -> Erased:
    """Erase those of the blobs that `announce` finds no row for. Raises StorageUnavailable.

    All are signed at once, for ERASE_WITHIN_S: who has many comes with a portion after the other.
    """
    # Signed before they are announced: what is stopped in between comes too late, and the store refuses it.
    keys = {digest: Key.blob(department, digest) for digest in digests}
    signed = runtime.objects.presign_erase(keys.values(), ttl_s=ERASE_WITHIN_S)
    with runtime.department(department) as session:
        announced = announce(session)
    erased = Erased([], [])
    for digest in announced.digests:
        in_time = runtime.objects.erase_presigned(keys[digest], signed[keys[digest]])
        (erased.gone if in_time else erased.late).append(digest)
    with runtime.department(department) as session:
        blobs.end(session, announced, erased.gone)
    return erased
