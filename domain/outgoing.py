"""What the service tells others of by itself: which events there are, how one is signed, and when it is sent again."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from domain.ids import IdKind, public_id


class OutgoingKind(StrEnum):
    """The closed list. Those of jobs that the client knows have the client's names."""

    JOB_STARTED = "fine_tuning.job.started"
    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    JOB_FAILED = "fine_tuning.job.failed"
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    VERSION_REGISTERED = "adapter.version.registered"
    VERSION_APPROVED = "adapter.version.approved"
    VERSION_REVOKED = "adapter.version.revoked"
    ALIAS_MOVED = "alias.moved"


# Who receives a delivery where it is no registered endpoint: the OpenLineage endpoint of the settings.
OPENLINEAGE = UUID(int=0)

# Seconds to wait after the first, second, … attempt that failed. After the last one nobody tries again: 75 hours.
RETRY_AFTER_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
MAX_ATTEMPTS = len(RETRY_AFTER_S) + 1

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins
SECRET_BYTES = 32
_SHOWN_CHARACTERS = 4


def body_of(event: UUID, kind: OutgoingKind, data: Mapping[str, Any], created_at: datetime) -> bytes:
    """An event as the client reads it: the same bytes at every attempt."""
    content = {
        "id": public_id(IdKind.OUTGOING_EVENT, event),
        "object": "event",
        "created_at": int(created_at.timestamp()),
        "type": kind.value,
        "data": dict(data),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def new_secret() -> bytes:
    """A secret to sign with, from the operating system's random numbers."""
    return secrets.token_bytes(SECRET_BYTES)


def shown_secret(secret: bytes) -> str:
    """As its receiver is given it, once."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def hint_of(secret: bytes) -> str:
    """What may be shown later."""
    return f"{SECRET_PREFIX}…{shown_secret(secret)[-_SHOWN_CHARACTERS:]}"


def signed_headers(body: bytes, *, message: str, at: datetime, keys: Iterable[bytes]) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0: HMAC-SHA256 of `id.timestamp.body` under each secret that is in force.

    A receiver drops a message whose id it has seen: an attempt whose answer was lost is made again.
    """
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message.encode(), timestamp.encode(), body))
    macs = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": message,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{mac}" for mac in macs),
    }


def retry_after_s(attempt: int, spread: float) -> float | None:
    """How long to wait after that attempt, counted from 1; None where it was the last.

    spread: 0 to 1 at random, for up to a tenth more, so that what failed together is not sent together again.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    return RETRY_AFTER_S[attempt - 1] * (1 + spread / 10)
