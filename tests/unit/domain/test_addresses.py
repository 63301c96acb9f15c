"""Which receivers others may name. The addresses are those of the IANA's special-purpose registries."""

from ipaddress import ip_address

import pytest

from domain.addresses import check_addresses, parse_networks, parse_url
from domain.refusals import ForbiddenAddress, Invalid

PUBLIC = "93.184.215.14"
FORBIDDEN = [
    "127.0.0.1", "127.8.8.8", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "fe80::1", "fec0::1", "feff:ffff::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    # IPv4 carried in IPv6: mapped, compatible, 6to4, Teredo, and through a translating gateway.
    "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "64:ff9b::127.0.0.1", "64:ff9b::a00:1",
]  # fmt: skip
HIDDEN = [
    "http://2130706433/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/",
    "https://127.1/", "https://127.0.1/", "https://127.0.0.1./", "https://1/", "https://0/", "https://0x/",
    "https://010.8.8.8/", "https://3232235777/hook", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/",
]  # fmt: skip
NO_URL = [
    "", "example.org", "ftp://example.org/", "file:///etc/passwd", "gopher://example.org/", "https://", "https:///x",
    "https://user@example.org/", "https://a:b@127.0.0.1/", "https://example.org/#part", "https://exa mple.org/",
    "https://example.org\\@127.0.0.1/", "https://example.org:0/", "https://example.org:99999/", "https://-a.org/",
    "https://\u2460\u2461\u2466.0.0.1/", "https://l\u00f6calhost/", "https://example.org/\n", "https://[::1/",
    "https://" + "a" * 2050, "https://a..b/", "https://a_b/",
]  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN)
def test_an_address_that_is_not_public_is_forbidden(address: str) -> None:
    url = parse_url("https://example.org/hook", param="url")
    with pytest.raises(ForbiddenAddress):
        check_addresses(url, [ip_address(address)], (), param="url")
    # One of several is enough: which of them is connected to is chance.
    with pytest.raises(ForbiddenAddress):
        check_addresses(url, [ip_address(PUBLIC), ip_address(address)], (), param="url")


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_permitted(address: str) -> None:
    url = parse_url("https://example.org/hook", param="url")
    assert check_addresses(url, [ip_address(address)], (), param="url") == ip_address(address)


@pytest.mark.parametrize("url", HIDDEN)
def test_an_address_in_a_spelling_that_hides_it_is_forbidden(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        parse_url(url, param="url")


@pytest.mark.parametrize("url", NO_URL)
def test_what_two_parsers_could_read_in_two_ways_is_no_url(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_url(url, param="url")
    assert not isinstance(refused.value, ForbiddenAddress)


def test_an_allowed_network_permits_its_own_addresses_alone() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00:1::/64")
    inside, outside = (parse_url(f"https://{host}/", param="url") for host in ("10.1.2.3", "10.2.0.1"))
    assert check_addresses(inside, [ip_address("10.1.2.3")], allowed, param="url")
    assert check_addresses(inside, [ip_address("::ffff:10.1.2.3")], allowed, param="url")
    with pytest.raises(ForbiddenAddress):
        check_addresses(outside, [ip_address("10.2.0.1")], allowed, param="url")


def test_without_encryption_a_request_goes_to_allowed_networks_only() -> None:
    allowed, url = parse_networks("10.1.0.0/16"), parse_url("http://example.org/", param="url")
    assert check_addresses(url, [ip_address("10.1.2.3")], allowed, param="url")
    with pytest.raises(Invalid):
        check_addresses(url, [ip_address(PUBLIC)], allowed, param="url")
    with pytest.raises(Invalid):
        check_addresses(url, [ip_address("10.1.2.3"), ip_address(PUBLIC)], allowed, param="url")


@pytest.mark.parametrize(
    ("url", "authority", "at"),
    [
        ("https://Hooks.Example.org/a?b=c", "hooks.example.org", "https://93.184.215.14:443/a?b=c"),
        ("https://example.org:8443", "example.org:8443", "https://93.184.215.14:8443/"),
        ("https://[2606:4700::1]:444/x", "[2606:4700::1]:444", "https://93.184.215.14:444/x"),
    ],
)
def test_a_request_says_the_name_and_goes_to_the_address(url: str, authority: str, at: str) -> None:
    parsed = parse_url(url, param="url")
    assert (parsed.authority, parsed.at(ip_address(PUBLIC))) == (authority, at)
