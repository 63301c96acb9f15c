"""A version's folder, signed: `model.sig` by the OpenSSF library (model-signing), and the statement of how it was made.

Whoever pulls the folder can check `model.sig` with `model_signing verify key` as well as with `tsugiki verify`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from domain.attestations import ATTESTATION_FILES, AttestationKind, Provenance
from domain.digests import manifest_of_tree
from signing.envelopes import seal
from signing.keys import SigningKey


def sign_folder(folder: Path, provenance: Provenance, key: SigningKey) -> Mapping[AttestationKind, bytes]:
    """Both attestations of the files in a folder, which is left as it is."""
    return {
        AttestationKind.SIGNATURE: _signature(folder, key),
        AttestationKind.PROVENANCE: seal(provenance.statement(manifest_of_tree(folder)), key),
    }


def _signature(folder: Path, key: SigningKey) -> bytes:
    # By name, and when there is something to sign: it takes 500 modules along, and most processes never sign.
    signing: Any = importlib.import_module("model_signing.signing")
    hashing: Any = importlib.import_module("model_signing.hashing")
    # Left out by name, so that the library finds a pulled folder right, which has them beside what they speak of.
    hashed = hashing.Config().set_ignored_paths(paths=ATTESTATION_FILES, ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=key.path).set_hashing_config(hashed)
    with TemporaryDirectory(dir=folder.parent) as beside:
        written = Path(beside) / "model.sig"
        signer.sign(folder, written)
        return written.read_bytes()
