"""Names that move between the versions of an adapter."""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.aliases import AliasMoveObject, AliasObject, AliasRequest
from api.objects.shape import Deleted, Page, page_of
from api.pages import After
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.refusals import PreconditionRequired
from services import adapters, aliases
from services.aliases import Expected, StandingAlias

router = APIRouter(prefix="/v1/adapters/{name}/aliases", tags=["Adapters"])

Name = Annotated[str, Path(description="An adapter's name.")]
AliasName = Annotated[str, Path(description="An alias, such as `production`.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Moves a page.")]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag that the alias has now.", max_length=80),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="`*`: there is no alias of that name yet.", max_length=80),
]
_ETAG = re.compile(r'"([0-9a-f]{32})"')
# What no alias has: a condition that was not read off an alias cannot hold.
_NO_ETAG = ""


def _expected(if_match: str | None, if_none_match: str | None = None) -> Expected | None:
    """What the caller believes to be there; None where they do not say."""
    if if_match is not None:
        if if_match.strip() == "*":
            raise PreconditionRequired("`If-Match: *` says nothing: name the alias's ETag.", param="If-Match")
        found = _ETAG.fullmatch(if_match.strip())
        return Expected(found[1] if found else _NO_ETAG)
    return Expected(None) if if_none_match == "*" else None


def _answer(caller: Caller, adapter: str, standing: StandingAlias, response: Response) -> AliasObject:
    response.headers["etag"] = f'"{standing.etag}"'
    return AliasObject.of(adapter, standing, protected=caller.runtime.settings.protected)


@router.get("", summary="List an adapter's aliases", dependencies=[needs(Permission.ADAPTER_READ)])
def list_all(caller: Authenticated, name: Name) -> Page[AliasObject]:
    """All aliases of an adapter, by name."""
    protected = caller.runtime.settings.protected
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        found = aliases.list_all(session, caller.principal, adapter)
        return page_of(AliasObject.of(name, each, protected=protected) for each in found)


@router.get("/{alias}", summary="Look at an alias", dependencies=[needs(Permission.ADAPTER_READ)])
def retrieve(caller: Authenticated, name: Name, alias: AliasName, response: Response) -> AliasObject:
    """The version that an alias stands for, and since when. The header `ETag` is what `If-Match` wants."""
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        return _answer(caller, name, aliases.get(session, caller.principal, adapter, alias), response)


@router.put(
    "/{alias}",
    summary="Move an alias",
    dependencies=[needs(Permission.ALIAS_MOVE, Permission.ALIAS_MOVE_PROTECTED)],
)
def move(
    *,
    caller: Authenticated,
    name: Name,
    alias: AliasName,
    wanted: Annotated[AliasRequest, json_body(AliasRequest)],
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> AliasObject:
    """Let an alias stand for a version. Say what is there now: of two who move at once, the second is refused.

    A protected alias stands for approved versions only, and whoever approved one does not move it there.
    """
    expected = _expected(if_match, if_none_match)
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        standing = aliases.move(
            session,
            caller.principal,
            adapter,
            alias,
            version=wanted.wanted(),
            expected=expected,
            protected=caller.runtime.settings.protected,
        )
        return _answer(caller, name, standing, response)


@router.post(
    "/{alias}/rollback",
    summary="Move an alias back",
    dependencies=[needs(Permission.ALIAS_MOVE, Permission.ALIAS_ROLL_BACK_PROTECTED)],
)
def roll_back(
    *, caller: Authenticated, name: Name, alias: AliasName, response: Response, if_match: IfMatch = None
) -> AliasObject:
    """Let an alias stand for the version before again, also one that was withdrawn; `If-Match` is not asked for.

    Versions that may not be served any more are passed over. Once more goes back to the one before that.
    """
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        standing = aliases.roll_back(
            session,
            caller.principal,
            adapter,
            alias,
            expected=_expected(if_match),
            protected=caller.runtime.settings.protected,
        )
        return _answer(caller, name, standing, response)


@router.delete(
    "/{alias}",
    summary="Withdraw an alias",
    dependencies=[needs(Permission.ALIAS_MOVE, Permission.ALIAS_MOVE_PROTECTED)],
)
def delete(caller: Authenticated, name: Name, alias: AliasName, if_match: IfMatch = None) -> Deleted:
    """Let a name stand for nothing any more. Its history stays, and a rollback brings it back."""
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        aliases.withdraw(
            session,
            caller.principal,
            adapter,
            alias,
            expected=_expected(if_match),
            protected=caller.runtime.settings.protected,
        )
    return Deleted(id=f"{name}@{alias}", object="adapter_alias")


@router.get("/{alias}/history", summary="Read how an alias moved", dependencies=[needs(Permission.ADAPTER_READ)])
def history(
    *, caller: Authenticated, name: Name, alias: AliasName, after: After = None, limit: Limit = 20
) -> Page[AliasMoveObject]:
    """Every move of an alias, newest first: when, by whom, from which version to which."""
    cursor = None if after is None else parse_id(IdKind.ALIAS_MOVE, after)
    with caller.in_department() as session:
        adapter = adapters.get(session, caller.principal, name)
        found, has_more = aliases.history(session, caller.principal, adapter, alias, after=cursor, limit=limit)
        return page_of(map(AliasMoveObject.of, found), has_more=has_more)
