"""What becomes of a version: described, compared, retired, revoked, deleted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.adapters import AdapterVersionObject
from api.objects.shape import Deleted
from api.objects.versions import CardObject, ComparisonObject, DescribeRequest, ReasonRequest
from api.routes.adapters import version_object
from domain.access import Permission
from domain.cards import markdown
from domain.ids import IdKind, public_id
from services import adapters, cards, versions

router = APIRouter(prefix="/v1/adapters/{name}", tags=["Adapters"])

Name = Annotated[str, Path(description="An adapter's name.")]
Reference = Annotated[str, Path(description="A version's number, or an alias such as `latest`.")]
_MARKDOWN = "text/markdown"


@router.post("/versions/{reference}", summary="Describe a version", dependencies=[needs(Permission.ADAPTER_DESCRIBE)])
def describe(
    caller: Authenticated,
    name: Name,
    reference: Reference,
    wanted: Annotated[DescribeRequest, json_body(DescribeRequest)],
) -> AdapterVersionObject:
    """Set the labels and the description. Nothing else of a version can be edited."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        labels, description = wanted.labels, wanted.description
        found = versions.describe(session, caller.principal, version, labels=labels, description=description)
        return version_object(session, caller, found, adapter=name)


@router.post(
    "/versions/{reference}/revoke", summary="Revoke a version", dependencies=[needs(Permission.ADAPTER_REVOKE)]
)
def revoke(
    caller: Authenticated,
    name: Name,
    reference: Reference,
    wanted: Annotated[ReasonRequest, json_body(ReasonRequest)],
) -> AdapterVersionObject:
    """Stop a version at once; one person is enough. It is handed out no more, and its aliases are withdrawn."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        found = versions.revoke(session, caller.principal, version, reason=wanted.reason)
        return version_object(session, caller, found, adapter=name)


@router.post(
    "/versions/{reference}/retire", summary="Retire a version", dependencies=[needs(Permission.ADAPTER_RETIRE)]
)
def retire(
    caller: Authenticated,
    name: Name,
    reference: Reference,
    wanted: Annotated[ReasonRequest, json_body(ReasonRequest)],
) -> AdapterVersionObject:
    """Take a version out of service for good. Refused while an alias stands for it."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        found = versions.retire(session, caller.principal, version, reason=wanted.reason)
        return version_object(session, caller, found, adapter=name)


@router.delete("/versions/{reference}", summary="Delete a version", dependencies=[needs(Permission.ADAPTER_DELETE)])
def delete(caller: Authenticated, name: Name, reference: Reference) -> Deleted:
    """Delete a version's files, and keep its row: its number is not given away again, and its lineage stays.

    A trainer deletes candidates of their own, an admin any version. Refused while an alias stands for it,
    or a job that is not finished goes on from it.
    """
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        digests = versions.delete(session, caller.principal, version)
    caller.erase_blobs(digests)
    return Deleted(id=public_id(IdKind.ADAPTER_VERSION, version.id), object="adapter_version")


@router.get(
    "/versions/{reference}/card",
    summary="Read a version's model card",
    dependencies=[needs(Permission.ADAPTER_READ)],
    response_model=CardObject,
    responses={200: {"content": {_MARKDOWN: {}}, "description": "The card."}},
)
def card(
    caller: Authenticated,
    name: Name,
    reference: Reference,
    layout: Annotated[
        Literal["json", "markdown"], Query(alias="format", description="For programs, or for people.")
    ] = "json",
) -> CardObject | Response:
    """What it is, what it learned from, how, and who decided what: made from what was written down when it happened."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        found = cards.card_of(session, caller.principal, version)
    return PlainTextResponse(markdown(found), media_type=_MARKDOWN) if layout == "markdown" else CardObject.of(found)


@router.get("/compare", summary="Compare two versions", dependencies=[needs(Permission.ADAPTER_READ)])
def compare(
    caller: Authenticated,
    name: Name,
    before: Annotated[str, Query(alias="from", description="A version's number or alias.", max_length=64)],
    after: Annotated[str, Query(alias="to", description="Another's.", max_length=64)],
) -> ComparisonObject:
    """Settings and rows that are different, all measurements, and what became of each file."""
    with caller.in_department() as session:
        one, other = (adapters.get_version(session, caller.principal, name, each) for each in (before, after))
        return ComparisonObject.of(name, cards.compare(session, caller.principal, one, other))
