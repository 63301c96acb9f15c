"""The whole service on one machine: its own servers, a proxy in front of each, and every process of it."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr
from sqlalchemy import make_url

from chaos import pieces
from chaos.checker import Checker
from chaos.pieces import Piece
from chaos.proxy import Proxy, of_url
from chaos.receiver import NETWORK, Receiver
from chaos.words import REAL_ENGINE, WITHOUT
from domain.plans import Device, Precision
from models_db.sessions import APP_ROLE
from runtime import installation
from runtime.embedded import EmbeddedServices
from runtime.installation import PlatformKeys
from runtime.settings import Settings, as_environment

APP_PASSWORD = "of a database that lives as long as a run"  # noqa: S105
TRAIN, VALIDATE, SWEEP, BEAT, SEAL, API = "train", "validate", "sweep", "beat", "seal", "api"
# A restart of a server by whoever looks after it.
_SERVER_ENDS_WITHIN_S, _SERVER_STARTS_WITHIN_S, _ENDED_AT_ONCE_S = 10.0, 30.0, 1.0


@dataclass(frozen=True)
class Shape:
    """What is started, and with which times: with the short engine, a thirtieth of an installation's own."""

    workers: int = 3
    lease_s: float = 2.0
    sweep_every_s: float = 1.0
    nudge_after_s: float = 1.0
    step_s: float = 0.1
    real_engine: bool = False
    without: tuple[str, ...] = ()


# The times that an installation has by itself.
USUAL = Shape(lease_s=60.0, sweep_every_s=15.0, nudge_after_s=30.0)


@dataclass(frozen=True)
class Network:
    """The way from the processes to each server."""

    database: Proxy
    broker: Proxy
    storage: Proxy

    @property
    def all(self) -> Sequence[Proxy]:
        """Each of them."""
        return (self.database, self.broker, self.storage)


class Installation:
    """Started on entering, ended on leaving. Enter it in the main thread."""

    settings: Settings
    keys: PlatformKeys
    network: Network
    receiver: Receiver
    checker: Checker
    pieces: list[Piece]

    def __init__(self, folder: Path, shape: Shape, seed: int = 0) -> None:
        self.folder, self.shape, self.seed = folder.absolute(), shape, seed
        self.ledger = self.folder / "ledger.jsonl"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _start(self, stack: ExitStack) -> None:
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        # Durable: what PostgreSQL has committed is to be there after its SIGKILL.
        servers = stack.enter_context(EmbeddedServices(self.folder / "servers"))
        self.servers = {server.name: server for server in servers.processes}
        self._addresses = (servers.database_admin_url, servers.broker_url, servers.s3.endpoint_url)
        self.network = self._ways(stack)
        self.receiver = stack.enter_context(Receiver())
        self._listener = stack.enter_context(create_server(("127.0.0.1", 0), backlog=1024))
        self.api_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.settings = self._settings(servers)
        made: list[PlatformKeys] = []
        installation.prepare(self.settings, keep=made.append)
        (self.keys,) = made
        self.checker = Checker(self.settings)
        stack.callback(self.checker.close)
        pieces.preload()
        self.pieces = self._pieces()
        stack.callback(self._end)
        for piece in self.pieces:
            piece.start()

    def _ways(self, stack: ExitStack) -> Network:
        return Network(*(stack.enter_context(of_url(address, self.seed)) for address in self._addresses))

    def _settings(self, servers: EmbeddedServices) -> Settings:
        """Those of us who look on: straight to the servers."""
        app = make_url(servers.database_admin_url).set(
            drivername="postgresql+psycopg", username=APP_ROLE, password=APP_PASSWORD
        )
        shape = self.shape
        values: dict[str, Any] = {
            "database_url": SecretStr(app.render_as_string(hide_password=False)),
            "database_admin_url": SecretStr(servers.database_admin_url),
            "broker_url": SecretStr(servers.broker_url),
            "s3_endpoint": servers.s3.endpoint_url,
            "s3_region": servers.s3.region,
            "s3_bucket": servers.s3.bucket,
            "s3_access_key": SecretStr(servers.s3.access_key),
            "s3_secret_key": SecretStr(servers.s3.secret_key),
            "signing_key_file": self.folder / "signing-key.pem",
            "cache_dir": self.folder / "cache",
            "work_dir": self.folder / "work",
            "lease_s": shape.lease_s,
            "sweep_every_s": shape.sweep_every_s,
            "nudge_after_s": shape.nudge_after_s,
            "stop_grace_s": min(shape.lease_s * 2, 25.0),
            "hang_after_s": shape.lease_s * 3,
            "ranks": 1,
            "device": Device.CPU,
            "precision": Precision.FP32,
            "prewarm": False,
            "max_unfinished_jobs": 100_000,
            "receiver_networks": NETWORK,
        }
        return Settings(**values)

    def _pieces(self) -> list[Piece]:
        environment = {"PATH": os.environ["PATH"]} | as_environment(self.settings) | self._through(self.network)
        environment.pop("TSUGIKI_DATABASE_ADMIN_URL")
        logs = self.folder / "logs"
        logs.mkdir()
        short = (f"--step-s={self.shape.step_s}", f"--ledger={self.ledger}")
        engine = (REAL_ENGINE,) if self.shape.real_engine else short
        without = tuple(f"{WITHOUT}{name}" for name in self.shape.without)

        def worker(name: str, role: str) -> Piece:
            return Piece(name, ("chaos.worker", role, *engine, *without), logs / f"{name}.log", environment)

        api = ("uvicorn", "--factory", "api.main:create", "--no-access-log")
        return [
            Piece(API, api, logs / "api.log", environment, self._listener),
            worker(VALIDATE, VALIDATE),
            worker(SWEEP, SWEEP),
            worker(BEAT, BEAT),
            worker(SEAL, SEAL),
            *(worker(f"{TRAIN}-{number}", TRAIN) for number in range(1, self.shape.workers + 1)),
        ]

    def _through(self, network: Network) -> dict[str, str]:
        settings = self.settings
        return {
            "TSUGIKI_DATABASE_URL": network.database.url(settings.database_url.get_secret_value()),
            "TSUGIKI_BROKER_URL": network.broker.url(settings.broker_url.get_secret_value()),
            "TSUGIKI_S3_ENDPOINT": network.storage.url(str(settings.s3_endpoint)),
        }

    def set_apart(self, piece: Piece) -> Network:
        """Give a piece ways of its own to the servers from its next start on, so that it alone can be cut off."""
        apart = self._ways(self._open)
        piece.environment = dict(piece.environment) | self._through(apart)
        return apart

    def _end(self) -> None:
        for piece in self.pieces:
            piece.end()

    def of_role(self, role: str) -> list[Piece]:
        """The pieces that do this work."""
        return [piece for piece in self.pieces if piece.name.partition("-")[0] == role]

    def restart_server(self, name: str) -> None:
        """SIGKILL a server, and start it again on its data and its port: postgres, valkey or seaweedfs."""
        server = self.servers[name]
        server.send(signal.SIGKILL)
        server.ended(_SERVER_ENDS_WITHIN_S)
        server.reap()
        server.start()
        deadline = time.monotonic() + _SERVER_STARTS_WITHIN_S
        while server.ended(_ENDED_AT_ONCE_S) and time.monotonic() < deadline:
            # What its former children still hold keeps PostgreSQL from starting.
            server.reap()
            server.start()
