from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StrictInt, StrictStr

from api.objects.shape import Body, Identified, seconds
from domain.access import PrincipalType
from domain.digests import Digest
from domain.ids import IdKind, parse_id, public_id
from models_db.adapters import AliasMove
from services.aliases import PastMove, StandingAlias

_MAX_NUMBER = 2**31 - 1


class AliasRequest(Body):
    """Which version an alias is to stand for."""

    version: Annotated[StrictInt, Field(ge=1, le=_MAX_NUMBER)] | StrictStr = Field(
        description="Its number, or its id `adapterver-…`."
    )

    def wanted(self) -> int | UUID:
        """In the words of the service."""
        return self.version if isinstance(self.version, int) else parse_id(IdKind.ADAPTER_VERSION, self.version)


class AliasObject(Identified):
    """A name that moves between the versions of an adapter."""

    id: str = Field(description="`adapter@alias`.")
    object: Literal["adapter_alias"] = Field(default="adapter_alias", description="Always `adapter_alias`.")
    adapter: str = Field(description="The adapter.")
    name: str = Field(description="The alias.")
    version: int = Field(description="Number of the version that it stands for.")
    version_id: str = Field(description="Its id.")
    digest: str = Field(description="Its digest.")
    protected: bool = Field(description="Whether it stands for approved versions only, and is moved by two people.")
    etag: str = Field(
        description="What `If-Match` names; another after every move. The header `ETag` has it in quotes."
    )
    moved_at: int = Field(description="When it was moved there, in seconds since 1970.")
    moved_by: str | None = Field(description="By whom: `user-…` or `svcacct_…`; null for Tsugiki itself.")

    @classmethod
    def of(cls, adapter: str, standing: StandingAlias, *, protected: frozenset[str]) -> "AliasObject":
        """From its row, its version's and its last move's."""
        name = standing.alias.name
        return cls(
            id=f"{adapter}@{name}",
            adapter=adapter,
            name=name,
            version=standing.version.number,
            version_id=public_id(IdKind.ADAPTER_VERSION, standing.version.id),
            digest=standing.version.digest,
            protected=name in protected,
            etag=standing.etag,
            moved_at=seconds(standing.alias.moved_at),
            moved_by=_mover(standing.move) if standing.move else None,
        )


class AliasMoveObject(Identified):
    """One move of an alias, or its end."""

    id: str = Field(description="`aliasmove-…`.")
    object: Literal["adapter_alias.move"] = Field(
        default="adapter_alias.move", description="Always `adapter_alias.move`."
    )
    kind: str = Field(description="`moved`, `rolled_back` or `withdrawn`.")
    before: int | None = Field(description="Number of the version it stood for; null for none.")
    after: int | None = Field(description="Number of the version it stood for from then on; null for none.")
    protected: bool = Field(description="Whether it was protected then.")
    policy_digest: Digest | None = Field(description="Of the policies that let a protected alias move.")
    moved_at: int = Field(description="When, in seconds since 1970.")
    moved_by: str | None = Field(description="By whom: `user-…` or `svcacct_…`; null for Tsugiki itself.")
    person: str | None = Field(description="The person behind that key.")

    @classmethod
    def of(cls, past: PastMove) -> "AliasMoveObject":
        """From its row and the versions' numbers."""
        move = past.move
        return cls(
            id=public_id(IdKind.ALIAS_MOVE, move.id),
            kind=move.kind,
            before=past.from_number,
            after=past.number,
            protected=move.protected,
            policy_digest=move.policy_digest,
            moved_at=seconds(move.moved_at),
            moved_by=_mover(move),
            person=public_id(IdKind.USER, move.mover_id) if move.mover_id else None,
        )


def _mover(move: AliasMove) -> str | None:
    if move.moved_by is None:
        return None
    is_user = move.moved_by_type == PrincipalType.USER
    return public_id(IdKind.USER if is_user else IdKind.SERVICE_ACCOUNT, move.moved_by)
