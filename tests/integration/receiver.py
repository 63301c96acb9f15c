"""A receiver of webhooks: a real HTTP server on loopback that keeps what it got, and answers as it is told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class ReceiverServer:
    """What came, and what is answered: the statuses in turn, then 200. `location` makes redirects of them."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    location: str | None = None
    hold: threading.Event | None = None

    def of(self, event: str) -> list[Received]:
        return [each for each in self.received if each.event.get("type") == event]


@contextmanager
def receiving() -> Iterator[ReceiverServer]:
    """A server for the length of the block."""
    server = ReceiverServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.received.append(Received(self.path, headers, body))
            if server.hold is not None:
                server.hold.wait(30)
            self.send_response(server.statuses.pop(0) if server.statuses else 200)
            if server.location is not None:
                self.send_header("location", server.location)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/hook"
    yield server
    http.shutdown()
    http.server_close()
