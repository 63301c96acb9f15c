"""A version's attestations: made of its folder, and stored before any row names them."""

from io import BytesIO
from pathlib import Path
from uuid import UUID

from domain.attestations import Attestation, Provenance
from domain.digests import digest_of
from runtime.wiring import Runtime
from services.attestations import Attested
from signing.folders import sign_folder
from storage.keys import Key


def attest(runtime: Runtime, department: UUID, folder: Path, provenance: Provenance) -> Attested:
    """Sign a folder and the statement of how it was made. Raises StorageUnavailable, and SigningKeyUnusable."""
    key, attestations = runtime.signing_key, []
    for kind, content in sign_folder(folder, provenance, key).items():
        digest = digest_of(content)
        runtime.objects.put(Key.blob(department, digest), BytesIO(content), digest, len(content))
        attestations.append(Attestation(kind=kind, digest=digest, bytes=len(content), key_id=key.public.key_id))
    return Attested(key.public, tuple(attestations))
