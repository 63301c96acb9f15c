"""The key that versions are signed with, and the public ones that check: elliptic-curve keys, as model signatures want.

Ed25519 would be the smaller choice; the OpenSSF library has no signer for it.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_CURVE = ec.SECP256R1
# As the signature's own format asks for it, by the size of the key.
_HASHES: Mapping[int, type[hashes.HashAlgorithm]] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_OTHERS = 0o077


class SigningKeyUnusable(Exception):  # noqa: N818 - named for the fact
    """There is no such key, or it is none that can sign here, or others may read it."""


@dataclass(frozen=True)
class PublicKey:
    """What checks signatures. Its id is the sha256 of its PEM form, by which signatures name it."""

    pem: str
    _key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @classmethod
    def read(cls, content: bytes) -> "PublicKey":
        """From PEM. Raises SigningKeyUnusable."""
        try:
            key = serialization.load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            raise SigningKeyUnusable("This is no public key in PEM form.") from None
        return cls.of(key)

    @classmethod
    def of(cls, key: object) -> "PublicKey":
        """Raises SigningKeyUnusable for a key of another kind."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise SigningKeyUnusable("Keys are of the elliptic curves P-256, P-384 and P-521.")
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(pem.decode(), key)

    @property
    def key_id(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @property
    def algorithm(self) -> str:
        """`ecdsa-p256`, by the size of its curve."""
        return f"ecdsa-p{self._key.curve.key_size}"

    def confirms(self, signature: bytes, content: bytes) -> bool:
        """Whether the key's owner signed these bytes."""
        try:
            self._key.verify(signature, content, ec.ECDSA(_hash_of(self._key)))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The private key, in a file that its process alone may read."""

    path: Path
    public: PublicKey
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Raises SigningKeyUnusable, also where somebody else may read the file."""
        try:
            content, mode = path.read_bytes(), path.stat().st_mode
        except OSError as error:
            raise SigningKeyUnusable(f"The signing key {path} cannot be read: {error.strerror}.") from None
        if mode & _OTHERS:
            raise SigningKeyUnusable(f"The signing key {path} may be read by others: set its mode to 600.")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise SigningKeyUnusable(f"{path} holds no private key in PEM form without a password.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SigningKeyUnusable("Keys are of the elliptic curves P-256, P-384 and P-521.")
        return cls(path, PublicKey.of(key.public_key()), key)

    def sign(self, content: bytes) -> bytes:
        """An ECDSA signature, each time another one."""
        return self._key.sign(content, ec.ECDSA(_hash_of(self._key)))


def create(path: Path) -> bool:
    """Make a key at that place, for its owner's eyes only, unless there is one; whether there was none.

    Written beside and linked: a second process that does so at the same time finds the first one's.
    """
    if path.exists():
        return False
    made = ec.generate_private_key(_CURVE()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    finally:
        part.unlink()
    return True


def by_id(keys: Iterable[PublicKey]) -> Mapping[str, PublicKey]:
    """Each under its id."""
    return {key.key_id: key for key in keys}


def _hash_of(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> hashes.HashAlgorithm:
    return _HASHES[key.curve.key_size]()
