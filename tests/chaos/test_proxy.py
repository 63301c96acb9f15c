"""What each fault of the proxy does to a connection."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from chaos.proxy import Fault, Proxy, of_url


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says back what it hears, with `heard ` before it. Its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while heard := connection.recv(65536):
                        connection.sendall(b"heard " + heard)
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def say(client: socket.socket, words: bytes) -> bytes:
    client.sendall(words)
    return client.recv(65536)


def test_without_a_fault_everything_passes(client: socket.socket) -> None:
    assert say(client, b"hello") == b"heard hello"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_cut_resets_what_is_open_and_nothing_else(proxy: Proxy, client: socket.socket) -> None:
    assert say(client, b"hello")
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as again:
        assert say(again, b"hello") == b"heard hello"


def test_a_refusal_is_for_new_connections_and_ends_with_its_healing(proxy: Proxy, client: socket.socket) -> None:
    # It is through: the proxy takes a connection a moment after the kernel has.
    assert say(client, b"before") == b"heard before"
    proxy.break_(Fault(refuse=True))
    # Here it may come while connecting already.
    with pytest.raises(ConnectionResetError), connect(proxy) as refused:
        say(refused, b"hello")
    assert say(client, b"hello") == b"heard hello"
    proxy.heal()
    with connect(proxy) as again:
        assert say(again, b"hello") == b"heard hello"


def test_what_is_held_arrives_when_it_is_healed(proxy: Proxy, client: socket.socket) -> None:
    assert say(client, b"hello")
    proxy.break_(Fault(hold=True))
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        say(client, b"again")
    proxy.heal()
    client.settimeout(5)
    assert client.recv(65536) == b"heard again"


def test_a_delay_is_one_each_way(proxy: Proxy, client: socket.socket) -> None:
    assert say(client, b"hello")
    proxy.break_(Fault(delay_s=0.1))
    begun = time.monotonic()
    assert say(client, b"hello") == b"heard hello"
    assert time.monotonic() - begun >= 0.2


def test_a_lost_reply_is_one_to_what_was_heard(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_(Fault(lose_reply_to=b"COMMIT", times=1))
    assert say(client, b"BEGIN") == b"heard BEGIN"
    with pytest.raises(ConnectionResetError):
        say(client, b"COMMIT")
    assert proxy.hits == 1
    with connect(proxy) as again:
        assert say(again, b"COMMIT") == b"heard COMMIT"


def test_no_more_than_the_limit_goes_up(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_(Fault(limit_bytes=8))
    assert say(client, b"12345") == b"heard 12345"
    with pytest.raises(ConnectionResetError):
        say(client, b"67890")


def test_one_bit_of_one_byte_comes_down_changed(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_(Fault(flip_after=6, times=1))
    assert say(client, b"aa") == b"heard `a"
    assert say(client, b"aa") == b"heard aa"


def test_a_request_is_answered_in_the_servers_place(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_(Fault(answer=b"HTTP/1.1 503 Slow Down\r\n\r\n"))
    assert say(client, b"PUT /x HTTP/1.1\r\n\r\n") == b"HTTP/1.1 503 Slow Down\r\n\r\n"


def test_a_share_is_drawn_by_the_seed(echo: int) -> None:
    def answered(seed: int) -> list[bool]:
        with Proxy("127.0.0.1", echo, seed) as proxy:
            proxy.break_(Fault(answer=b"no", share=0.5))
            found = []
            for _ in range(30):
                with connect(proxy) as client:
                    found.append(say(client, b"GET / HTTP/1.1") == b"no")
            return found

    assert answered(1) == answered(1) != answered(2)
    assert 5 < sum(answered(1)) < 25


def test_a_url_leads_through_the_proxy(proxy: Proxy, echo: int) -> None:
    assert proxy.url(f"redis://:secret@127.0.0.1:{echo}/0") == f"redis://:secret@127.0.0.1:{proxy.port}/0"
    with pytest.raises(ValueError, match="address"):
        proxy.url("redis://elsewhere:1/0")
    for url in (
        f"redis://:se:1/cret@127.0.0.1:{echo}/0",
        f"http://127.0.0.1:{echo}",
        f"postgresql://127.0.0.1:{echo}/a",
    ):
        with of_url(url) as other:
            assert other.url(f"x://127.0.0.1:{echo}/0") == f"x://127.0.0.1:{other.port}/0"
