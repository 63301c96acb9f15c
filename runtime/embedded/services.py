"""The three servers together, for as long as a `with` block."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.embedded.binaries import Binaries
from runtime.embedded.data_directory import held
from runtime.embedded.errors import ServerDidNotStart
from runtime.embedded.postgres import Postgres, postgres
from runtime.embedded.seaweedfs import PORT_FLAGS, SeaweedFS, seaweedfs
from runtime.embedded.valkey import Valkey, valkey
from runtime.processes import ChildProcess, stop_all

BUCKET = "tsugiki"
REGION = "us-east-1"
_START_WITHIN_S = 60.0
_STOP_WITHIN_S = 10.0
_POLL_S = 0.03

_Server = Postgres | Valkey | SeaweedFS


@dataclass(frozen=True)
class S3Access:
    """All that an S3 client needs."""

    endpoint_url: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = REGION


class EmbeddedServices:
    """PostgreSQL, Valkey and SeaweedFS on a data directory: started on entering, stopped on leaving, data kept.

    Ports and so URLs are new at each start; they are known inside the block only. Enter it in a thread that lives until
    the end: the servers are killed when that thread ends, and by the kernel when this process is. `durable=False` lets
    PostgreSQL lose data in a power cut, for tests.

    Raises DataDirectoryInUse, ServerDidNotStart, ServerNotInstalled, NoUserForPostgres, SecretsMissing.
    """

    database_admin_url: str
    broker_url: str
    s3: S3Access
    processes: tuple[ChildProcess, ...]

    def __init__(self, directory: Path, *, durable: bool = True, binaries: Binaries | None = None) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._binaries = binaries
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def _start(self, stack: ExitStack) -> None:
        """Start all three, then wait for all: the two quick ones come up while initdb works."""
        binaries = self._binaries or Binaries.from_wheels()
        directory = stack.enter_context(held(self._directory))
        database_port, broker_port, *object_ports = _free_ports(2 + len(PORT_FLAGS))
        started: list[ChildProcess] = []

        def launch(server: _Server) -> None:
            server.process.start()
            started.append(server.process)

        ports = dict(zip(PORT_FLAGS, object_ports, strict=True))
        objects = seaweedfs(directory, binaries.weed, ports=ports, bucket=BUCKET)
        stack.callback(objects.remove_sockets)
        # Called before the one above, with the list as it is then.
        stack.callback(stop_all, started, timeout_s=_STOP_WITHIN_S)
        launch(objects)
        broker = valkey(directory, binaries.valkey_server, port=broker_port)
        launch(broker)
        database = postgres(directory, binaries.postgres_bin, port=database_port, durable=self._durable)
        launch(database)
        _wait_ready(database, broker, objects)

        self.database_admin_url = database.admin_url
        self.broker_url = broker.url
        self.s3 = S3Access(
            endpoint_url=f"http://127.0.0.1:{ports['s3.port']}",
            bucket=BUCKET,
            access_key=directory.secrets.s3_access_key,
            secret_key=directory.secrets.s3_secret_key,
        )
        self.processes = tuple(started)


def _wait_ready(*servers: _Server) -> None:
    """Return when each has been ready once. Raises ServerDidNotStart."""
    deadline = time.monotonic() + _START_WITHIN_S
    waiting = list(servers)
    while waiting:
        # The end is looked for first: an answer might come from whoever took the port of a server that ended.
        for server in waiting:
            if server.process.ended():
                raise ServerDidNotStart(f"{server.process.name} ended\n{server.process.log_tail()}")
        waiting = [server for server in waiting if not server.is_ready()]
        if waiting and time.monotonic() > deadline:
            name, tail = waiting[0].process.name, waiting[0].process.log_tail()
            raise ServerDidNotStart(f"{name} is not ready after {_START_WITHIN_S:g} s\n{tail}")
        if waiting:
            time.sleep(_POLL_S)


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that are free at this moment, each another."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
