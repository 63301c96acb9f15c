"""A version's attestations: made of its folder, and stored before any row names them."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from uuid import UUID

from domain.attestations import Attestation, Provenance
from domain.digests import digest_of
from runtime.wiring import Runtime
from services.attestations import Attested
from signing.folders import sign_folder
from storage.keys import Key

# Does what it is given, and may do it again where the store is away.
Insist = Callable[[Callable[[], None]], None]


def _once(operation: Callable[[], None]) -> None:
    operation()


def attest(
    runtime: Runtime, department: UUID, folder: Path, provenance: Provenance, *, insist: Insist = _once
) -> Attested:
    """Sign a folder and the statement of how it was made. Raises StorageUnavailable, and SigningKeyUnusable.

    Each object is stored through `insist` by itself: a store that fails at times must not have to do all in one go.
    """
    key, attestations = runtime.signing_key, []
    for kind, content in sign_folder(folder, provenance, key).items():
        digest = digest_of(content)
        insist(partial(_store, runtime, Key.blob(department, digest), content))
        attestations.append(Attestation(kind=kind, digest=digest, bytes=len(content), key_id=key.public.key_id))
    return Attested(key.public, tuple(attestations))


def _store(runtime: Runtime, key: Key, content: bytes) -> None:
    runtime.objects.put(key, BytesIO(content), digest_of(content), len(content))
