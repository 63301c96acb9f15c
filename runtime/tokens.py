"""Tokens of an OpenID provider: believed by RFC 8725, or not at all.

Provider and algorithms are those of the settings: a token chooses neither. Its key is one of those that the provider
publishes at the address that its own document names; a token whose header names a key, or an address of one, is refused
for that.
"""

import ipaddress
import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError
from pydantic import BaseModel, ConfigDict, ValidationError

from domain.identities import Identity
from domain.keys import INVALID_KEY_MESSAGE
from domain.refusals import Unauthenticated

log = logging.getLogger(__name__)

# Beside these a header holds nothing: no key, no address of one, nothing critical.
_HEADER = {"alg", "kid", "typ"}
_TYPES = {None, "JWT", "at+jwt"}
MAX_TOKEN_BYTES = 16_384
LEEWAY_S = 30
TIMEOUT_S = 5
# A provider that has changed its keys is asked again; one that never had a key, this often at most.
ASK_AGAIN_S = 60
KEYS_KEPT_S = 3600


class ProviderUnavailable(Exception):  # noqa: N818 - named for the fact
    """The provider does not say with which keys it signs."""


class _Claims(BaseModel):
    """What is read of a token; what else it says is of no matter."""

    model_config = ConfigDict(strict=True)

    sub: str
    aud: str | list[str]
    email: str | None = None
    email_verified: bool = False
    name: str | None = None
    groups: list[str] = []
    nonce: str | None = None


def _asked(url: str) -> Any:
    """What the provider answers, from that address and no other. Raises httpx.HTTPError, ValueError."""
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        return client.get(url).raise_for_status().json()


class TokenVerifier:
    """One provider's tokens for one client."""

    def __init__(
        self, issuer: str, audience: str, algorithms: list[str], *, ask: Callable[[str], Any] = _asked
    ) -> None:
        self._issuer, self._audience, self._algorithms, self._ask = issuer, audience, algorithms, ask
        self._expected = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._lock = Lock()
        self._keys: dict[str, Any] = {}
        self._asked_at = float("-inf")

    def verify(self, token: str) -> Identity:
        """Who the token says somebody is. Raises Unauthenticated alike for all that is wrong, ProviderUnavailable."""
        try:
            key = self._key(self._checked_kid(token))
            claims = jwt.decode(token, key, algorithms=self._algorithms).claims
            self._expected.validate(claims)
            return self._identity(_Claims.model_validate(claims))
        except (JoseError, ValueError, ValidationError) as error:
            log.info("A token was refused: %s", type(error).__name__)
            raise Unauthenticated(INVALID_KEY_MESSAGE) from None

    def _checked_kid(self, token: str) -> str:
        """The name of the key. Raises ValueError and JoseError where the header says what it must not."""
        if len(token) > MAX_TOKEN_BYTES:
            raise ValueError("too long")
        header = jws.extract_compact(token.encode("ascii")).headers()
        kid = header.get("kid")
        if not header.keys() <= _HEADER or header.get("typ") not in _TYPES or not isinstance(kid, str):
            raise ValueError("a header that is not taken")
        if header.get("alg") not in self._algorithms:
            raise ValueError("an algorithm that is not taken")
        return kid

    def _identity(self, claims: _Claims) -> Identity:
        # Of several audiences another could be the one that it was meant for.
        if claims.aud not in (self._audience, [self._audience]):
            raise ValueError("another audience")
        return Identity(
            issuer=self._issuer,
            subject=claims.sub,
            email=claims.email,
            is_email_verified=claims.email_verified,
            name=claims.name or claims.sub,
            groups=frozenset(claims.groups),
            nonce=claims.nonce,
        )

    def _key(self, kid: str) -> Any:
        with self._lock:
            age_s = time.monotonic() - self._asked_at
            if age_s > KEYS_KEPT_S or (kid not in self._keys and age_s > ASK_AGAIN_S):
                self._keys = self._published()
                self._asked_at = time.monotonic()
            if kid not in self._keys:
                raise ValueError("an unknown key")
            return self._keys[kid]

    def _published(self) -> dict[str, Any]:
        try:
            document = self._ask(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if document["issuer"] != self._issuer:
                raise ProviderUnavailable("another issuer")
            found = jwk.KeySet.import_key_set(self._ask(checked_url(document["jwks_uri"])))
        except (httpx.HTTPError, JoseError, ValueError, KeyError) as error:
            raise ProviderUnavailable(type(error).__name__) from error
        # A secret one among them would make whoever reads it a signer.
        return {key.kid: key for key in found.keys if key.kid and key.key_type != "oct" and not key.is_private}


def checked_url(url: str) -> str:
    """An address that is encrypted, or this machine's own. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    try:
        is_own = parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise ValueError("an https:// address is needed")
    return url
