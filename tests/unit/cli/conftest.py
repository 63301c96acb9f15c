import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli.main import main


@dataclass
class Stub:
    """A service that answers what it is told to, and remembers what it was asked."""

    base_url: str
    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self, request: str, body: Any, status: int = 200) -> None:
        """The answer to `GET /path`; given twice, the second time, and the last one from then on."""
        self.answers.setdefault(request, []).append((status, body))

    def refuse(self, request: str, status: int, message: str, *, code: str, param: str | None = None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self.answer(request, {"error": error}, status)

    def requests(self) -> list[str]:
        return [request for request, _headers, _body in self.asked]


@pytest.fixture
def stub() -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = f"{self.command} {self.path.partition('?')[0].removeprefix('/v1')}"
            served.asked.append(
                (
                    f"{self.command} {self.path.removeprefix('/v1')}",
                    {name.lower(): value for name, value in self.headers.items()},
                    body,
                )
            )
            waiting = served.answers.get(request, [(404, None)])
            status, answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the base class's names

        def log_message(self, format: str, *arguments: Any) -> None: ...  # noqa: A002 - the base class's name

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served = Stub(base_url=f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Finished]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> Run:
    """The command line with an empty environment, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("TSUGIKI_BASE_URL", "TSUGIKI_API_KEY", "TSUGIKI_DEPARTMENT"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr("sys.argv", ["tsugiki", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Finished(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def tsugiki(bare: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, talking to the stub with a key of its own."""
    monkeypatch.setenv("TSUGIKI_BASE_URL", stub.base_url)
    monkeypatch.setenv("TSUGIKI_API_KEY", "tsk_mine")
    return bare
