"""`tsugiki up`: the whole service in the foreground of one command, on embedded servers.

DIR/endpoint.json says where it lives, as long as it lives; DIR/keys.json keeps the installation's two keys.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import make_url

from runtime import installation, logs
from runtime.embedded.data_directory import write_private
from runtime.embedded.services import EmbeddedServices
from runtime.processes import ChildProcess, ProcessGroup
from runtime.settings import Settings, as_environment

_POLL_S = 0.1
_STOP_WITHIN_S = 12.0
_RESTARTS = 5


def up(directory: Path, *, host: str, port: int, workers: int, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT. `announce` is told the base URL once everything answers.

    port 0 takes a free one. Raises DataDirectoryInUse, ServerDidNotStart, ChildEnded, OSError for a port in use.
    """
    # Until the group takes the signals over: a stop during the start unwinds what has been started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with EmbeddedServices(directory) as servers, _listen(host, port) as listener:
        settings = _settings(directory.absolute(), servers, listener)
        logs.configure(settings.log_level)
        endpoint = {"base_url": _base_url(listener)} | _keys(directory, settings)
        # Each worker writes a byte once it listens to its queue.
        ready, written = os.pipe()
        children = _children(settings, directory.absolute(), listener=listener, ready=written, workers=workers)
        listeners = sum(written in child.inherit for child in children)

        def say_where() -> None:
            _wait_for_all(endpoint["base_url"], ready, listeners)
            write_private(directory / "endpoint.json", json.dumps(endpoint, indent=2))
            announce(endpoint["base_url"])

        threading.Thread(target=say_where, daemon=True).start()
        try:
            ProcessGroup(children, watched=servers.processes, stop_timeout_s=_STOP_WITHIN_S).run()
        finally:
            (directory / "endpoint.json").unlink(missing_ok=True)


def _listen(host: str, port: int) -> socket.socket:
    """The API's socket, bound here: the port is ours at once, and stays ours when the API is started again."""
    listener = socket.create_server((host, port), backlog=2048)
    listener.set_inheritable(True)
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}/v1"


def _settings(directory: Path, servers: EmbeddedServices, listener: socket.socket) -> Settings:
    """The embedded servers' addresses; everything else from the environment, as for any other process."""
    from_servers: dict[str, Any] = {
        "database_url": SecretStr(_app_url(servers.database_admin_url, directory)),
        "database_admin_url": SecretStr(servers.database_admin_url),
        "broker_url": SecretStr(servers.broker_url),
        "s3_endpoint": servers.s3.endpoint_url,
        "s3_region": servers.s3.region,
        "s3_bucket": servers.s3.bucket,
        "s3_access_key": SecretStr(servers.s3.access_key),
        "s3_secret_key": SecretStr(servers.s3.secret_key),
        "signing_key_file": directory / "signing-key.pem",
        "cache_dir": directory / "cache",
        "work_dir": directory / "work",
        "host": listener.getsockname()[0],
        "port": listener.getsockname()[1],
    }
    settings = Settings(**from_servers)
    if settings.audit_signing_key_file is not None:
        return settings
    audit = directory / "audit"
    audit.mkdir(mode=0o700, exist_ok=True)
    return settings.model_copy(
        update={
            "audit_signing_key_file": audit / "signing-key.pem",
            "audit_checkpoint_file": settings.audit_checkpoint_file or audit / "checkpoints.jsonl",
        }
    )


def _app_url(admin_url: str, directory: Path) -> str:
    """The application's own URL on the same server, its password kept beside the servers' secrets."""
    path = directory / "app-password"
    if not path.exists():
        write_private(path, os.urandom(24).hex())
    url = make_url(admin_url).set(drivername="postgresql+psycopg", username="tsugiki_app", password=path.read_text())
    return url.render_as_string(hide_password=False)


def _keys(directory: Path, settings: Settings) -> dict[str, str]:
    """The operator's and the auditor's key: made at the first start, then read back."""
    path = directory / "keys.json"
    installation.prepare(settings, keep=lambda made: write_private(path, made.as_json()))
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def _children(
    settings: Settings, directory: Path, *, listener: socket.socket, ready: int, workers: int
) -> Sequence[ChildProcess]:
    environment = _inherited() | as_environment(settings)
    # Only migrations need the administrator, and they are done.
    environment.pop("TSUGIKI_DATABASE_ADMIN_URL")
    python = sys.executable

    def child(name: str, *arguments: str, inherit: Sequence[int] = (), may_end: bool = False) -> ChildProcess:
        return ChildProcess(
            name=name,
            argv=[python, "-m", *arguments],
            log=directory / "logs" / f"{name}.log",
            env=environment,
            inherit=inherit,
            restarts=_RESTARTS,
            may_end=may_end,
        )

    def worker(name: str, role: str) -> ChildProcess:
        # The operator may retire a train worker.
        return child(name, "workers.main", role, f"--ready-fd={ready}", inherit=[ready], may_end=role == "train")

    return [
        child("api", "api.main", "--fd", str(listener.fileno()), inherit=[listener.fileno()]),
        worker("validator", "validate"),
        worker("sweeper", "sweep"),
        worker("sealer", "seal"),
        *(worker(f"worker-{number}", "train") for number in range(1, workers + 1)),
        child("beat", "workers.main", "beat"),
    ]


def _inherited() -> dict[str, str]:
    """Our environment without settings: the children's are those given to them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TSUGIKI_")}


def _wait_for_all(base_url: str, ready: int, listeners: int) -> None:
    """Return when the API can reach all servers and every worker listens."""
    while not _answers(base_url.removesuffix("/v1") + "/readyz"):
        time.sleep(_POLL_S)
    heard = 0
    while heard < listeners:
        heard += len(os.read(ready, listeners))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False
