"""The deliverer: what there is to tell goes to those who want to hear, beside the sweeper, which waits for nobody."""

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

from sqlalchemy.exc import InterfaceError, OperationalError

from domain.failpoints import FailPoint, failpoint
from domain.ids import IdKind, public_id
from domain.openlineage import EVENT_TYPES
from domain.outgoing import OPENLINEAGE, body_of, signed_headers
from runtime import receivers
from runtime.wiring import Runtime
from services import openlineage, outbox, webhooks
from services.outbox import Attempted, Parcel
from services.webhooks import Receiver

log = logging.getLogger(__name__)

# Longer than an attempt takes at most. Whoever dies with deliveries in hand delays them by so much.
HOLD_S = 60.0
DAY_S = 86_400
NO_RECEIVER, UNEXPECTED = "no_receiver", "unexpected"
RELEASE = metadata.version("tsugiki")


class Deliverer:
    """Sends what is due. Any number of processes may: a delivery is taken by one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def deliver(self) -> None:
        """Send until nothing is due."""
        self._fan_out()
        while parcels := self._claimed():
            asyncio.run(self._send_all(parcels))
        with self._runtime.platform() as session:
            outbox.forget(session, older_than_s=self._runtime.settings.outgoing_kept_days * DAY_S)

    def _fan_out(self) -> None:
        kinds = tuple(EVENT_TYPES) if self._runtime.settings.openlineage_url else ()
        has_more = True
        while has_more:
            with self._runtime.platform() as session:
                has_more = outbox.fan_out(session, lineage_kinds=kinds)

    def _claimed(self) -> Sequence[Parcel]:
        with self._runtime.platform() as session:
            claimed = outbox.claim(session, hold_s=HOLD_S)
        parcels = []
        for delivery, department in claimed:
            with self._runtime.department(department) as session:
                parcel = outbox.load(session, delivery)
            if parcel is not None:
                parcels.append(parcel)
        return parcels

    async def _send_all(self, parcels: Sequence[Parcel]) -> None:
        await asyncio.gather(*(self._send(parcel) for parcel in parcels))

    async def _send(self, parcel: Parcel) -> None:
        try:
            attempted = await self._attempted(parcel)
            failpoint(FailPoint.DELIVERY_ANSWERED)
            with self._runtime.department(parcel.department) as session:
                outbox.settle(session, parcel, attempted, spread=random.random())  # noqa: S311 - no secret
        except Exception:
            # The edge: it is due again when its time is over, and the others do not wait for it.
            log.exception("event %s could not be told", parcel.event)
            return
        if attempted.error:
            log.warning("event %s: attempt %d failed (%s)", parcel.event, parcel.attempt, attempted.error)

    async def _attempted(self, parcel: Parcel) -> Attempted:
        """What became of it. An error of our own is one more attempt that failed, or it would be sent for ever.

        Raises OperationalError, InterfaceError where the database is away: that is nobody's attempt.
        """
        send = self._to_openlineage if parcel.receiver == OPENLINEAGE else self._to_webhook
        try:
            return await send(parcel)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("event %s could not be told", parcel.event)
            return Attempted(None, UNEXPECTED)

    async def _to_webhook(self, parcel: Parcel) -> Attempted:
        receiver = self._receiver(parcel)
        if receiver is None:
            return Attempted(None, NO_RECEIVER, is_final=True)
        body = body_of(parcel.event, parcel.kind, parcel.data, parcel.created_at)
        message = public_id(IdKind.OUTGOING_EVENT, parcel.event)
        headers = signed_headers(body, message=message, at=datetime.now(UTC), keys=receiver.keys)
        return await receivers.post(receiver.url, body, headers, self._runtime.settings)

    async def _to_openlineage(self, parcel: Parcel) -> Attempted:
        settings = self._runtime.settings
        if settings.openlineage_url is None:
            return Attempted(None, NO_RECEIVER, is_final=True)
        with self._runtime.department(parcel.department) as session:
            told = openlineage.document(session, parcel, organisation=settings.organisation, release=RELEASE)
        token = settings.openlineage_api_key
        headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        return await receivers.post_to_own(settings.openlineage_url, json.dumps(told).encode(), headers)

    def _receiver(self, parcel: Parcel) -> Receiver | None:
        """The department's own endpoint, or the organisation's."""
        with self._runtime.department(parcel.department) as session:
            own = webhooks.receiver(session, parcel.receiver)
        if own is not None:
            return own
        with self._runtime.platform() as session:
            return webhooks.receiver(session, parcel.receiver)
