"""Public ids: a prefix that says the kind, and the row's UUID in hex. The prefixes are the OpenAI client's."""

import re
from enum import StrEnum
from uuid import UUID

from domain.refusals import NotFound


class IdKind(StrEnum):
    """The prefix of each kind of public id."""

    DEPARTMENT = "proj_"
    USER = "user-"
    SERVICE_ACCOUNT = "svcacct_"
    API_KEY = "key_"
    FILE = "file-"
    JOB = "ftjob-"
    ESTIMATE = "estimate-"
    JOB_EVENT = "ftevent-"
    JOB_CHECKPOINT = "ftckpt_"
    ADAPTER = "adapter-"
    ADAPTER_VERSION = "adapterver-"
    EVALUATION = "eval-"
    APPROVAL = "approval-"
    ALIAS_MOVE = "aliasmove-"
    BASE_MODEL = "base-"
    POLICY = "policy-"
    FILE_GRANT = "filegrant-"
    VERSION_SHARE = "cp_"
    ROLE_GRANT = "rolegrant-"
    BREAK_GLASS = "glass-"
    AUDIT_EVENT = "audit_log-"
    AUDIT_EXPORT = "audit_export-"
    LEASE = "lease-"
    WORKER = "worker-"
    WEBHOOK_ENDPOINT = "wh_"
    OUTGOING_EVENT = "evt_"
    DOWNLOAD = "download-"
    DEPLOYMENT = "deployment-"
    FILE_ERASURE = "erasure-"


_HEX = re.compile(r"[0-9a-f]{32}")


def public_id(kind: IdKind, key: UUID) -> str:
    """`ftjob-0193…` for a job's UUID."""
    return kind.value + key.hex


def parse_id(kind: IdKind, text: str) -> UUID:
    """The UUID behind a public id. Anything that is not one is NotFound, as a well-formed unknown one would be."""
    rest = text.removeprefix(kind.value)
    if rest == text or not _HEX.fullmatch(rest):
        raise NotFound(f"No such object: {kind.name.lower().replace('_', ' ')}.")
    return UUID(hex=rest)


def parse_any_id(text: str) -> UUID | None:
    """The UUID behind a public id of any kind; None where it is not one."""
    for kind in IdKind:
        rest = text.removeprefix(kind.value)
        if rest != text and _HEX.fullmatch(rest):
            return UUID(hex=rest)
    return None
