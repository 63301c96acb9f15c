"""Requests to addresses that others have named: looked up, checked, and sent to the address that was checked.

No redirect is followed, no proxy is used, no answer is read, and a request is over in TIMEOUT_S whatever the other side
does: its time is the deliverer's.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urljoin

import httpx

from domain.addresses import Address, ReceiverUrl, check_addresses, parse_networks, parse_url
from domain.refusals import ForbiddenAddress, Refusal, UnknownAddress
from runtime.settings import Settings
from services.outbox import Attempted

TIMEOUT_S = 15
_HEADERS = {"content-type": "application/json", "user-agent": "Tsugiki", "accept": "*/*"}


async def check(url: str, settings: Settings, *, param: str = "url") -> tuple[ReceiverUrl, Address]:
    """The URL in its parts, and the address that its host stands for now.

    Raises Invalid, ForbiddenAddress, and UnknownAddress where the name stands for none.
    """
    parsed = parse_url(url, param=param)
    addresses = await _look_up(parsed, param=param)
    allowed = parse_networks(settings.receiver_networks)
    return parsed, check_addresses(parsed, addresses, allowed, param=param)


async def _look_up(url: ReceiverUrl, *, param: str) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        raise UnknownAddress("The URL's host is not known.", param=param) from None
    return [ip_address(str(address[0])) for *_, address in found]


async def post(url: str, body: bytes, headers: Mapping[str, str], settings: Settings) -> Attempted:
    """Send a message to a receiver that others have named: its address is checked now, whatever it was before."""
    try:
        parsed, address = await check(url, settings)
    except ForbiddenAddress as refusal:
        return Attempted(None, refusal.code, is_final=True)
    except Refusal as refusal:
        return Attempted(None, refusal.code)
    # The certificate and the host are the name's; the connection is the address's.
    named = {"host": parsed.authority, **_HEADERS, **headers}
    answered = await _send(parsed.at(address), body, named, sni=parsed.host)
    if answered.location and await _leads_inside(url, answered.location, settings):
        return Attempted(answered.attempted.status_code, ForbiddenAddress.code, is_final=True)
    return answered.attempted


async def _leads_inside(url: str, location: str, settings: Settings) -> bool:
    """Whether a redirect, which is not followed, leads where nothing may be sent. What is no URL leads nowhere."""
    try:
        await check(urljoin(url, location), settings)
    except ForbiddenAddress:
        return True
    except (Refusal, ValueError):
        return False
    return False


async def post_to_own(url: str, body: bytes, headers: Mapping[str, str]) -> Attempted:
    """Send a message to an address of this installation's settings, wherever it is."""
    return (await _send(url, body, {**_HEADERS, **headers}, sni=None)).attempted


class _Answered(NamedTuple):
    """What a request came to, and where its answer would have led."""

    attempted: Attempted
    location: str | None = None


async def _send(url: str, body: bytes, headers: Mapping[str, str], *, sni: str | None) -> _Answered:
    extensions, locations = {"sni_hostname": sni} if sni else {}, list[str]()

    async def take_location(answer: httpx.Response) -> None:
        # httpx would take it apart, though it does not follow it, and fail where it is no URL.
        locations.append(answer.headers.pop("location", ""))

    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(
                verify=_tls(), trust_env=False, timeout=TIMEOUT_S, event_hooks={"response": [take_location]}
            ) as client,
            client.stream("POST", url, content=body, headers=headers, extensions=extensions) as answer,
        ):
            return _answered(answer, next(iter(locations), None))
    except (TimeoutError, httpx.TimeoutException):
        return _Answered(Attempted(None, "timeout"))
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return _Answered(Attempted(None, "connection_failed"))


def _answered(answer: httpx.Response, location: str | None) -> _Answered:
    status_code = answer.status_code
    if answer.is_success:
        return _Answered(Attempted(status_code))
    if answer.is_redirect:
        return _Answered(Attempted(status_code, "redirected"), location)
    # Standard Webhooks: it wants no more.
    return _Answered(Attempted(status_code, "refused", is_final=status_code == httpx.codes.GONE))


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
