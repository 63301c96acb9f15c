"""An event as it is hashed: every column, by name, in plain JSON types; times in whole microseconds of UTC.

The SQL below turns columns into those types by itself, so that no session's settings (time zone, output format) can
change a byte.
"""

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from evidence.canonical import MAX_INT, NotCanonical, canonical

# Who has no department: the platform's own events.
PLATFORM = UUID(int=0)

# What stands in for the digest of an event that has none. The service writes no such event: it is never as it was.
NO_FORM = bytes(32)

_TEXT = (
    "actor_type", "auth_method", "action", "outcome", "reason_code", "resource_type", "request_id", "trace_id",
    "source_ip", "user_agent_hash", "object_sha256", "policy_version",
)  # fmt: skip
_UUIDS = ("id", "department_id", "actor_id", "actor_key_id", "on_behalf_of", "resource_id")
_NUMBERS = ("xid", "number", "job_epoch", "schema_version")
_AS_THEY_ARE = ("roles", "before", "after", "details")

# Each field's SQL.
EXPRESSIONS: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in (*_NUMBERS, *_TEXT, *_AS_THEY_ARE)},
        **{name: f"{name}::text" for name in _UUIDS},
        "refs": "refs::text[]",
        "occurred_at": "(extract(epoch FROM occurred_at) * 1000000)::bigint",
    }
)
FIELDS = tuple(sorted(EXPRESSIONS))
SELECT_LIST = ", ".join(f"{EXPRESSIONS[name]} AS {name}" for name in FIELDS)

_NUMBER, _XID, _TIME = (FIELDS.index(name) for name in ("number", "xid", "occurred_at"))
_DEPARTMENT = FIELDS.index("department_id")


class Leaf(NamedTuple):
    """What a seal has to know of an event: its place, its transaction, its time in microseconds, its digest."""

    number: int
    xid: int
    occurred_at: int
    digest: bytes


def can_be_sealed(event: Leaf) -> bool:
    """Whether a seal has room for its number, which nobody but the database's owner can choose."""
    return 0 <= event.number <= MAX_INT


def leaf(row: tuple[Any, ...]) -> Leaf:
    """From a row of SELECT_LIST."""
    try:
        digest = sha256(canonical(dict(zip(FIELDS, row, strict=True)))).digest()
    except NotCanonical:
        digest = NO_FORM
    return Leaf(row[_NUMBER], row[_XID], row[_TIME], digest)


def chain_of(row: tuple[Any, ...]) -> UUID:
    """The chain that an event is sealed in: its department's, or the platform's."""
    department = row[_DEPARTMENT]
    return PLATFORM if department is None else UUID(department)


def row_of(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """The row of an exported event. Raises KeyError where a field is missing, ValueError where there are others."""
    if len(event) != len(FIELDS):
        raise ValueError("an event has other fields than these")
    return tuple(event[name] for name in FIELDS)
