"""The outermost layer: a request id, a few headers, bugs answered without their insides, bodies read to their end."""

import asyncio
import logging
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer

log = logging.getLogger(__name__)

_FIRST_ERROR = 400
# A client that is refused while it still sends reads the answer only if what it sent is taken in.
_MAX_DRAINED_BYTES = 64 << 20
_DRAIN_TIMEOUT_S = 5


class Edge:
    """ASGI middleware around everything, also around unknown paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        body, started = _Body(receive), False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
                headers.setdefault("cache-control", "no-store")
                if message["status"] >= _FIRST_ERROR:
                    await body.drain()
            await send(message)

        try:
            await self._app(scope, body.receive, sending)
        except Exception:
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], request_id)
            if started:
                # The client sees a broken connection, which is what it is.
                raise
            await answer(500, "internal_error", "Something went wrong on our side.")(scope, receive, sending)


class _Body:
    """The request's body, and whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        left = _MAX_DRAINED_BYTES
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            log.info("A refused body was not read to its end.")
