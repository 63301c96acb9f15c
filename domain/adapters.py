"""Adapter series and their immutable versions."""

import re
from enum import StrEnum

from domain.refusals import Invalid

LATEST = "latest"
NAME_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
_NAME = re.compile(NAME_PATTERN)


class VersionState(StrEnum):
    """candidate -> approved | rejected, then retired or revoked."""

    CANDIDATE = "candidate"
    APPROVED = "approved"
    REJECTED = "rejected"
    RETIRED = "retired"
    REVOKED = "revoked"


def check_name(name: str, *, param: str) -> str:
    """A name of an adapter, a department or a base model: letters, digits, `.`, `_`, `-`; 64 at most."""
    if not _NAME.fullmatch(name):
        raise Invalid("Use 1 to 64 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit.",
                      param=param)  # fmt: skip
    return name


def model_name(base_model: str, organisation: str, adapter: str, version_id: str) -> str:
    """What the client calls a fine-tuned model: `ft:{base}:{organisation}:{adapter}:{id}`."""
    return f"ft:{base_model}:{organisation}:{adapter}:{version_id}"
