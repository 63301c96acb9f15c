"""Webhook endpoints, as the client has them: a department's, or the organisation's, which hear of all departments."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Query

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.shape import Deleted, Page, page_of
from api.objects.webhooks import (
    EventTypesObject,
    SecretRotation,
    WebhookEndpointChange,
    WebhookEndpointObject,
    WebhookEndpointRequest,
    WebhookEndpointWithSecretObject,
    WebhookTestObject,
    WebhookTestRequest,
)
from api.pages import After
from domain.access import Permission, require
from domain.ids import IdKind, parse_id, public_id
from domain.outgoing import OutgoingKind, body_of, signed_headers
from domain.refusals import ForbiddenAddress, ReceiverSilent, UnknownAddress
from runtime import receivers
from services import webhooks
from services.outbox import Attempted

router = APIRouter(prefix="/v1", tags=["Webhooks"])

EndpointId = Annotated[str, Path(description="An endpoint's id, `wh_…`.")]


@router.get("/webhook_event_types", summary="List what webhooks tell of", dependencies=[needs(Permission.WEBHOOK_READ)])
def list_event_types(caller: Authenticated) -> EventTypesObject:
    """The types that an endpoint can ask for."""
    require(caller.principal, Permission.WEBHOOK_READ)
    return EventTypesObject(data=list(OutgoingKind))


@router.post(
    "/webhook_endpoints", summary="Register a webhook endpoint", dependencies=[needs(Permission.WEBHOOK_MANAGE)]
)
def create(
    caller: Authenticated, wanted: Annotated[WebhookEndpointRequest, json_body(WebhookEndpointRequest)]
) -> WebhookEndpointWithSecretObject:
    """Have events sent to an address, signed as Standard Webhooks has it. The secret is shown in this answer only.

    An address that is private, local or reserved is refused, however it is written, and again whenever it is sent to.
    """
    require(caller.principal, Permission.WEBHOOK_MANAGE)
    _check(caller, wanted.url)
    with caller.anywhere() as session:
        issued = webhooks.create(
            session, caller.principal, name=wanted.name, url=wanted.url, event_types=wanted.event_types
        )
        return WebhookEndpointWithSecretObject.of_new(issued)


def _check(caller: Caller, url: str) -> None:
    # Before a session is opened: a name server may take its time.
    asyncio.run(receivers.check(url, caller.runtime.settings))


@router.get("/webhook_endpoints", summary="List webhook endpoints", dependencies=[needs(Permission.WEBHOOK_READ)])
def list_page(
    caller: Authenticated,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Endpoints a page.")] = 20,
) -> Page[WebhookEndpointObject]:
    """The endpoints, newest first, without their secrets."""
    cursor = None if after is None else parse_id(IdKind.WEBHOOK_ENDPOINT, after)
    with caller.anywhere() as session:
        found, has_more = webhooks.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(map(WebhookEndpointObject.of, found), has_more=has_more)


@router.get(
    "/webhook_endpoints/{endpoint_id}",
    summary="Look at a webhook endpoint",
    dependencies=[needs(Permission.WEBHOOK_READ)],
)
def retrieve(caller: Authenticated, endpoint_id: EndpointId) -> WebhookEndpointObject:
    """One endpoint, without its secret."""
    with caller.anywhere() as session:
        return WebhookEndpointObject.of(webhooks.get(session, caller.principal, _key(endpoint_id)))


@router.post(
    "/webhook_endpoints/{endpoint_id}",
    summary="Change a webhook endpoint",
    dependencies=[needs(Permission.WEBHOOK_MANAGE)],
)
def update(
    caller: Authenticated,
    endpoint_id: EndpointId,
    wanted: Annotated[WebhookEndpointChange, json_body(WebhookEndpointChange)],
) -> WebhookEndpointObject:
    """Change its name, its address, or what it hears of."""
    require(caller.principal, Permission.WEBHOOK_MANAGE)
    endpoint = _key(endpoint_id)
    if wanted.url is not None:
        _check(caller, wanted.url)
    with caller.anywhere() as session:
        changed = webhooks.change(
            session,
            caller.principal,
            endpoint,
            name=wanted.name,
            url=wanted.url,
            event_types=wanted.event_types,
        )
        return WebhookEndpointObject.of(changed)


@router.delete(
    "/webhook_endpoints/{endpoint_id}",
    summary="Delete a webhook endpoint",
    dependencies=[needs(Permission.WEBHOOK_MANAGE)],
)
def delete(caller: Authenticated, endpoint_id: EndpointId) -> Deleted:
    """Send it nothing more, what is on its way included."""
    with caller.anywhere() as session:
        webhooks.delete(session, caller.principal, _key(endpoint_id))
    return Deleted(id=endpoint_id, object="webhook_endpoint.deleted")


@router.post(
    "/webhook_endpoints/{endpoint_id}/rotate_secret",
    summary="Give a webhook endpoint another secret",
    dependencies=[needs(Permission.WEBHOOK_MANAGE)],
)
def rotate_secret(
    caller: Authenticated, endpoint_id: EndpointId, wanted: Annotated[SecretRotation, json_body(SecretRotation)]
) -> WebhookEndpointWithSecretObject:
    """The old secret ends at once, or both sign for a day. The new one is shown in this answer only."""
    with caller.anywhere() as session:
        issued = webhooks.rotate_secret(
            session,
            caller.principal,
            _key(endpoint_id),
            keep_old=wanted.keep_old_secret_active_for_24_hours,
        )
        return WebhookEndpointWithSecretObject.of_new(issued)


@router.post(
    "/webhook_endpoints/{endpoint_id}/test",
    summary="Send a webhook endpoint a sample",
    dependencies=[needs(Permission.WEBHOOK_MANAGE)],
)
def test(
    caller: Authenticated, endpoint_id: EndpointId, wanted: Annotated[WebhookTestRequest, json_body(WebhookTestRequest)]
) -> WebhookTestObject:
    """Send one message of that type about nothing, and tell what was answered.

    A receiver that cannot be reached is refused as `receiver_silent`. A redirect is not followed.
    """
    endpoint, now, event = _key(endpoint_id), datetime.now(UTC), uuid4()
    with caller.anywhere() as session:
        receiver = webhooks.receiver_to_test(session, caller.principal, endpoint)
    body = body_of(event, wanted.event_type, {"id": "sample"}, now)
    headers = signed_headers(body, message=public_id(IdKind.OUTGOING_EVENT, event), at=now, keys=receiver.keys)
    attempted = asyncio.run(receivers.post(receiver.url, body, headers, caller.runtime.settings))
    return WebhookTestObject(
        webhook_endpoint_id=endpoint_id, event_type=wanted.event_type, status_code=_status(attempted)
    )


def _status(attempted: Attempted) -> int:
    if attempted.error == ForbiddenAddress.code:
        raise ForbiddenAddress("The URL leads, or redirects, to a private, local or reserved address.", param="url")
    if attempted.error == UnknownAddress.code:
        raise UnknownAddress("The URL's host is not known.", param="url")
    if attempted.status_code is None:
        raise ReceiverSilent("The receiver could not be reached, or did not answer in time.")
    return attempted.status_code


def _key(endpoint_id: str) -> UUID:
    return parse_id(IdKind.WEBHOOK_ENDPOINT, endpoint_id)
