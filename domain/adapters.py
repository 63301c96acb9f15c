"""Adapter series, their immutable versions, and the names that move between them."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictStr

from domain.refusals import Conflict, Invalid, ReservedAlias

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


# A trigger of the database refuses what is not in this table, whoever asks.
NEXT: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.CANDIDATE: frozenset(
        {VersionState.APPROVED, VersionState.REJECTED, VersionState.RETIRED, VersionState.REVOKED}
    ),
    VersionState.APPROVED: frozenset({VersionState.RETIRED, VersionState.REVOKED}),
    VersionState.REJECTED: frozenset({VersionState.RETIRED, VersionState.REVOKED}),
    # What was taken out of service in good order may still turn out to be harmful.
    VersionState.RETIRED: frozenset({VersionState.REVOKED}),
    VersionState.REVOKED: frozenset(),
}

# What an alias may stand for, and is handed out; a protected alias stands for an approved version alone.
STANDING = frozenset({VersionState.CANDIDATE, VersionState.APPROVED})


def check_transition(current: VersionState, following: VersionState) -> None:
    """Raise Conflict where the move is not in the table."""
    if following not in NEXT[current]:
        raise Conflict(f"A version that is {current.value} cannot become {following.value}.")


class MoveKind(StrEnum):
    """Why an alias is where it is, or is no more: moved by somebody, moved back, or taken away."""

    MOVED = "moved"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"


MAX_LABELS = 16
MAX_TEXT_CHARACTERS = 4000
_LABEL_CHARACTERS = 256

Labels = Annotated[
    dict[
        Annotated[StrictStr, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")],
        Annotated[StrictStr, Field(max_length=_LABEL_CHARACTERS)],
    ],
    Field(max_length=MAX_LABELS),
]


def check_name(name: str, *, param: str) -> str:
    """A name of an adapter, an alias, a department or a base model: letters, digits, `.`, `_`, `-`; 64 at most."""
    if not _NAME.fullmatch(name):
        raise Invalid("Use 1 to 64 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit.",
                      param=param)  # fmt: skip
    return name


def check_alias(name: str) -> str:
    """A name that people may give to a version. Raises ReservedAlias, and Invalid for what reads as a number."""
    if name == LATEST:
        raise ReservedAlias(f"`{LATEST}` follows the newest version by itself.", param="alias")
    if name.isdigit():
        raise Invalid("An alias is not a number: that is a version's.", param="alias")
    return check_name(name, param="alias")


def model_name(base_model: str, organisation: str, adapter: str, version_id: str) -> str:
    """What the client calls a fine-tuned model: `ft:{base}:{organisation}:{adapter}:{id}`."""
    return f"ft:{base_model}:{organisation}:{adapter}:{version_id}"
