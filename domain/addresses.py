"""Addresses that others name and this service connects to: which URLs there are, and which addresses are forbidden.

Whoever registers a receiver could otherwise have the service speak to itself, to its neighbours, or to the machine that
hands out its credentials. So a URL is taken apart here once, and a request is put together again from these parts and
an address that was checked: no second parser, and no second look-up, decides where it goes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from domain.refusals import ForbiddenAddress, Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2048
_PORTS = {"https": 443, "http": 80}
# ASCII without space, quotes, backslash and control characters: what two parsers could read in two ways is no URL here.
_URL = re.compile(r"[!#-\[\]-~]+")
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\.?")
# A name whose last label is one is an address in decimal, octal or hexadecimal, whatever it comes to.
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
# What Python 3.11 still calls global of the IANA's registries; site-local addresses, which RFC 3879 took out of them;
# and where one cloud's hosts answer their machines.
_SPECIAL = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "2001::/23", "5f00::/16", "fec0::/10", "168.63.129.16/32",
    )
)  # fmt: skip
_NAT64 = ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ip_network("::/96")
_LAST_32_BITS = 2**32 - 1


@dataclass(frozen=True)
class ReceiverUrl:
    """A URL in its parts. host is a name in small letters, or an address without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What a request's `Host` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: Address) -> str:
        """The same URL with a checked address in the name's place."""
        host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def parse_url(url: str, *, param: str) -> ReceiverUrl:
    """Take a URL apart. Raises Invalid, and ForbiddenAddress for an address in a spelling that only hides it."""
    if len(url) > MAX_URL_CHARACTERS or not _URL.fullmatch(url):
        raise Invalid(f"Give a URL of at most {MAX_URL_CHARACTERS} printable ASCII characters.", param=param)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Invalid("This is not a URL.", param=param) from None
    if parts.scheme not in _PORTS or parts.fragment or "@" in parts.netloc or port == 0:
        raise Invalid("Give an https:// URL without a user, a password or a fragment.", param=param)
    if not _is_address(host, param=param) and not _NAME.fullmatch(host):
        raise Invalid("The URL's host is no name.", param=param)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return ReceiverUrl(parts.scheme, host, port or _PORTS[parts.scheme], target)


def _is_address(host: str, *, param: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ForbiddenAddress("An address is written in four decimal parts.", param=param) from None
        return False
    if "%" in host:
        raise ForbiddenAddress("An address of a zone is this machine's own.", param=param)
    return True


def check_addresses(
    url: ReceiverUrl, addresses: Sequence[Address], allowed: Sequence[Network], *, param: str
) -> Address:
    """The address to connect to, of all that the name stands for. Raises ForbiddenAddress where any is forbidden.

    Without encryption a request goes to the allowed networks only.
    """
    if any(not _is_permitted(address, allowed) for address in addresses):
        raise ForbiddenAddress("The URL leads to a private, local or reserved address.", param=param)
    if url.scheme != "https" and not all(_is_in(address, allowed) for address in addresses):
        raise Invalid("Give an https:// URL.", param=param)
    return addresses[0]


def _is_permitted(address: Address, allowed: Sequence[Network]) -> bool:
    if _is_in(address, allowed):
        return True
    meant = _embedded(address)
    if not meant.is_global or meant.is_multicast or meant.is_reserved:
        return False
    return not any(meant in network for network in _SPECIAL)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(_embedded(address) in network for network in networks)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries, mapped or through a gateway; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    tunnelled = address.teredo[1] if address.teredo else None
    carried = address.ipv4_mapped or address.sixtofour or tunnelled
    if carried is not None:
        return carried
    number = int(address)
    if address in _NAT64 or (address in _IPV4_COMPATIBLE and number > 1):
        return IPv4Address(number & _LAST_32_BITS)
    return address


def parse_networks(text: str | None) -> tuple[Network, ...]:
    """Networks, separated by commas. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in (text or "").split(",") if part.strip())
