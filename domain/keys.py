"""API keys: `tsk_<8 letters of id>_<43 of secret>_<8 of checksum>`. Only the SHA-256 of the whole is kept.

256 random bits need no slow hash; the checksum lets a mistyped key be refused without a look-up.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass

from domain.refusals import Unauthenticated

KEY_PREFIX = "tsk_"
_ALPHABET = string.ascii_lowercase + string.digits
_SHAPE = re.compile(r"tsk_([a-z0-9]{8})_([A-Za-z0-9_-]{43})_([0-9a-f]{8})")


@dataclass(frozen=True)
class NewKey:
    """A key just made: `secret` is shown once and never stored."""

    prefix: str
    secret: str
    secret_sha256: bytes

    @property
    def redacted(self) -> str:
        """What may be shown later."""
        return f"tsk_{self.prefix}_…"


def new_key() -> NewKey:
    """Make a key from the operating system's random numbers."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    body = f"tsk_{prefix}_{secrets.token_urlsafe(32)}"
    secret = f"{body}_{_checksum(body)}"
    return NewKey(prefix=prefix, secret=secret, secret_sha256=hash_key(secret))


def hash_key(secret: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode()).digest()


def prefix_of(secret: str) -> str:
    """The look-up part of a presented key. Raises Unauthenticated when it was never one of ours."""
    match = _SHAPE.fullmatch(secret)
    if match is None or _checksum(secret.rpartition("_")[0]) != match[3]:
        raise Unauthenticated(INVALID_KEY_MESSAGE)
    return match[1]


INVALID_KEY_MESSAGE = "Incorrect API key provided. Keys are made by a department's admin."


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
