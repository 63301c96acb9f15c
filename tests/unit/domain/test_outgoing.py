import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import openai
import pytest
from openai.types.webhooks import FineTuningJobSucceededWebhookEvent

from domain.outgoing import (
    MAX_ATTEMPTS,
    RETRY_AFTER_S,
    OutgoingKind,
    body_of,
    new_secret,
    retry_after_s,
    shown_secret,
    signed_headers,
)

EVENT = UUID("0193aaaa-bbbb-7ccc-8ddd-eeeeffff0000")
NOW = datetime.now(UTC)
BODY = body_of(EVENT, OutgoingKind.JOB_SUCCEEDED, {"id": "ftjob-1"}, NOW)
SECRET = new_secret()


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1")


def test_the_official_client_unwraps_what_was_signed(client: openai.OpenAI) -> None:
    # Signed now: the client refuses what is older than five minutes, and this module may have been read before.
    headers = signed_headers(BODY, message="evt_1", at=datetime.now(UTC), keys=[SECRET])
    event = client.webhooks.unwrap(BODY, headers, secret=shown_secret(SECRET))
    assert isinstance(event, FineTuningJobSucceededWebhookEvent)
    assert (event.type, event.data.id, event.created_at) == (
        "fine_tuning.job.succeeded",
        "ftjob-1",
        int(NOW.timestamp()),
    )


def test_while_two_secrets_are_in_force_either_opens_it(client: openai.OpenAI) -> None:
    other = new_secret()
    headers = signed_headers(BODY, message="evt_1", at=datetime.now(UTC), keys=[SECRET, other])
    for secret in (SECRET, other):
        client.webhooks.unwrap(BODY, headers, secret=shown_secret(secret))


@pytest.mark.parametrize(
    ("body", "headers", "secret", "age_s"),
    [
        (BODY + b" ", {}, SECRET, 0),
        (BODY, {"webhook-id": "evt_2"}, SECRET, 0),
        (BODY, {}, new_secret(), 0),
        # Signed rightly, an hour ago: replayed.
        (BODY, {}, SECRET, 3600),
    ],
    ids=["other body", "other id", "other secret", "old"],
)
def test_what_was_changed_or_is_old_does_not_open(
    client: openai.OpenAI, *, body: bytes, headers: dict[str, str], secret: bytes, age_s: int
) -> None:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    signed = signed_headers(BODY, message="evt_1", at=at, keys=[SECRET]) | headers
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, signed, secret=shown_secret(secret))


def test_another_time_does_not_open(client: openai.OpenAI) -> None:
    signed = signed_headers(BODY, message="evt_1", at=datetime.now(UTC), keys=[SECRET])
    signed["webhook-timestamp"] = str(int(signed["webhook-timestamp"]) - 1)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(BODY, signed, secret=shown_secret(SECRET))


def test_a_signature_is_that_of_the_standard() -> None:
    # Standard Webhooks 1.0, "Signature scheme": HMAC-SHA256 over "{id}.{timestamp}.{body}", in base64, after "v1,".
    headers = signed_headers(BODY, message="evt_1", at=NOW, keys=[SECRET])
    mac = hmac.new(SECRET, f"evt_1.{int(NOW.timestamp())}.{BODY.decode()}".encode(), hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


def test_an_event_is_the_clients() -> None:
    assert json.loads(BODY) == {
        "id": f"evt_{EVENT.hex}", "object": "event", "created_at": int(NOW.timestamp()),
        "type": "fine_tuning.job.succeeded", "data": {"id": "ftjob-1"},
    }  # fmt: skip


def test_attempts_come_ever_later_and_end() -> None:
    waits = [retry_after_s(attempt, 0) for attempt in range(1, MAX_ATTEMPTS + 1)]
    assert waits == [*RETRY_AFTER_S, None]
    assert list(RETRY_AFTER_S) == sorted(set(RETRY_AFTER_S))
    assert retry_after_s(1, 1) == pytest.approx(RETRY_AFTER_S[0] * 1.1)
