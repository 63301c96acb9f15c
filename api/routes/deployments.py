"""Deployments: what inference servers say that they have."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.deployments import DeploymentObject, DeploymentReport
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import deployments

router = APIRouter(prefix="/v1/deployments", tags=["Lineage"])


@router.post("", summary="Report a deployment", dependencies=[needs(Permission.DEPLOYMENT_REPORT)])
def report(caller: Authenticated, said: Annotated[DeploymentReport, json_body(DeploymentReport)]) -> DeploymentObject:
    """Say that a server has a version loaded, or no more. `must_unload` answers whether it should let go of it."""
    with caller.in_department() as session:
        reported = deployments.report(
            session,
            caller.principal,
            adapter=said.adapter,
            reference=str(said.version),
            server=said.server,
            state=said.state,
        )
        return DeploymentObject.of(reported)


@router.get("", summary="List deployments", dependencies=[needs(Permission.LINEAGE_READ)])
def list_page(
    caller: Authenticated,
    *,
    adapter: Annotated[str | None, Query(description="Only this adapter's.")] = None,
    state: Annotated[Literal["loaded", "unloaded"] | None, Query(description="Only those in this state.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Deployments a page.")] = 20,
) -> Page[DeploymentObject]:
    """What servers last said, newest first."""
    cursor = None if after is None else parse_id(IdKind.DEPLOYMENT, after)
    with caller.in_department() as session:
        found, has_more = deployments.list_page(
            session, caller.principal, adapter=adapter, state=state, after=cursor, limit=limit
        )
        return page_of(map(DeploymentObject.of, found), has_more=has_more)
