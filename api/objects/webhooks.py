from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr

from api.objects.shape import Body, Identified, Shape, seconds
from domain.ids import IdKind, public_id
from domain.outgoing import OutgoingKind, hint_of, shown_secret
from models_db.outgoing import WebhookEndpoint
from services.webhooks import IssuedEndpoint

Name = Annotated[StrictStr, Field(min_length=1, max_length=64)]
EventTypes = Annotated[list[OutgoingKind], Field(min_length=1, max_length=len(OutgoingKind))]


class WebhookEndpointRequest(Body):
    """An endpoint to register."""

    name: Name = Field(description="For a person.")
    url: StrictStr = Field(description="Where messages are sent: `https://…`, to a public address.")
    event_types: EventTypes = Field(description="What it wants to hear of; see `GET /v1/webhook_event_types`.")


class WebhookEndpointChange(Body):
    """What is to be changed of an endpoint; what is left out stays."""

    name: Name | None = Field(default=None, description="For a person.")
    url: StrictStr | None = Field(default=None, description="Where messages are sent.")
    event_types: EventTypes | None = Field(default=None, description="All that it wants to hear of.")


class SecretRotation(Body):
    """How another secret takes the old one's place."""

    keep_old_secret_active_for_24_hours: StrictBool = Field(
        default=False, description="Whether messages are signed with both for a day."
    )


class WebhookTestRequest(Body):
    """A sample to send."""

    event_type: OutgoingKind = Field(description="The type of the sample.")


class WebhookEndpointObject(Identified):
    """Who wants to hear of what."""

    id: str = Field(description="`wh_…`.")
    object: Literal["webhook_endpoint"] = Field(default="webhook_endpoint", description="Always `webhook_endpoint`.")
    name: str = Field(description="For a person.")
    url: str = Field(description="Where messages are sent.")
    event_types: list[str] = Field(description="What it hears of.")
    signing_secret_hint: str | None = Field(description="The end of its secret.")
    created_at: int = Field(description="When it was registered, in seconds since 1970.")
    updated_at: int = Field(description="When it, or its secret, was last changed.")

    @classmethod
    def of(cls, endpoint: WebhookEndpoint) -> "WebhookEndpointObject":
        """From its row."""
        return cls(**_fields(endpoint))


class WebhookEndpointWithSecretObject(WebhookEndpointObject):
    """An endpoint with its secret."""

    signing_secret: str = Field(description="`whsec_…`: shown here, and never again.")

    @classmethod
    def of_new(cls, issued: IssuedEndpoint) -> "WebhookEndpointWithSecretObject":
        """From its row, and the secret just made."""
        return cls(**_fields(issued.endpoint), signing_secret=shown_secret(issued.secret))


def _fields(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": public_id(IdKind.WEBHOOK_ENDPOINT, endpoint.id),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "signing_secret_hint": hint_of(endpoint.secret) if endpoint.secret else None,
        "created_at": seconds(endpoint.created_at),
        "updated_at": seconds(endpoint.updated_at),
    }


class WebhookTestObject(Shape):
    """What a receiver answered to a sample."""

    object: Literal["webhook_endpoint.test"] = Field(
        default="webhook_endpoint.test", description="Always `webhook_endpoint.test`."
    )
    webhook_endpoint_id: str = Field(description="The endpoint.")
    event_type: str = Field(description="The type of the sample.")
    status_code: int = Field(description="The status it answered with.")
    success: Literal[True] = Field(default=True, description="Always true: it answered. See `status_code` for what.")


class EventTypesObject(Shape):
    """What there is to hear of."""

    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[str] = Field(description="The types of events.")
