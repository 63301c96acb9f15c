"""PostgreSQL on the data directory. It refuses to run as root, so root gives it another user."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from runtime.embedded.data_directory import DataDirectory, write_private
from runtime.embedded.errors import NoUserForPostgres, ServerDidNotStart
from runtime.processes import ChildProcess

SUPERUSER = "postgres"
_NOBODY = 65534
_INITDB_WITHIN_S = 60.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # TCP only: the path of a socket may have 107 characters, that of a data directory is not ours to choose.
    "unix_socket_directories": "",
    "max_connections": "200",
    # A worker stopped inside a transaction must not hold its rows for ever.
    "idle_in_transaction_session_timeout": "15s",
    "lock_timeout": "5s",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class _Identity:
    """A command to run PostgreSQL under, and the owner of its files as this process sees them."""

    command: tuple[str, ...]
    owner: int


_OWN = _Identity((), os.geteuid())
# In order of preference.
_FOR_ROOT = (
    _Identity(("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"), _NOBODY),
    # Where nobody cannot reach the programs or the data, below a home of mode 0700: root without its powers, under
    # another name. The files stay root's.
    _Identity(("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"), 0),
)


@dataclass
class Postgres:
    """One PostgreSQL server: its process, and the URL of its superuser."""

    process: ChildProcess
    admin_url: str

    def is_ready(self) -> bool:
        """Whether it takes a connection with the password."""
        try:
            psycopg.connect(self.admin_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def postgres(directory: DataDirectory, bin_folder: Path, *, port: int, durable: bool) -> Postgres:
    """Prepare DIR/postgres, creating the database cluster at the first start. The process is not started yet."""
    base = directory.private_folder("postgres")
    identity = _identity(bin_folder, base)
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(base)}
    if not (base / "data").exists():
        _create_cluster(directory, bin_folder, identity, env, durable=durable)
    if (base / "data").stat().st_uid != identity.owner:
        _give(base, identity.owner)
    # Left by a killed server. We hold the lock, so none runs; its process id may be somebody else's by now, and
    # PostgreSQL would refuse to start.
    (base / "data" / "postmaster.pid").unlink(missing_ok=True)
    settings = {**_SETTINGS, "port": str(port), **({} if durable else _NOT_DURABLE)}
    process = ChildProcess(
        name="postgres",
        argv=[str(bin_folder / "postgres"), "-D", str(base / "data"), *_options(settings)],
        log=directory.logs / "postgres.log",
        env=env,
        cwd=base,
        identity=identity.command,
        # Fast shutdown: sessions are ended, their transactions rolled back.
        stop_signal=signal.SIGINT,
        # Immediate shutdown: SIGKILL would leave a busy session running until it next looks up.
        death_signal=signal.SIGQUIT,
        inherit=[directory.lock],
    )
    password = directory.secrets.postgres_password
    return Postgres(process, f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres")


def _identity(bin_folder: Path, base: Path) -> _Identity:
    """The first identity that can run PostgreSQL and write to its folder, which is then that identity's."""
    if os.geteuid() != 0:
        return _OWN
    for identity in _FOR_ROOT:
        os.chown(base, identity.owner, identity.owner)
        probe = ["sh", "-c", 'test -w "$0" && exec "$1" --version', str(base), str(bin_folder / "postgres")]
        if subprocess.run([*identity.command, *probe], cwd="/", check=False, capture_output=True).returncode == 0:
            return identity
    raise NoUserForPostgres(
        f"PostgreSQL does not run as root. User {_NOBODY} (nobody) cannot reach {bin_folder} and {base}, and this "
        "kernel lets us make no user namespace. Put both where others may pass through, or run as an ordinary user."
    )


def _create_cluster(
    directory: DataDirectory, bin_folder: Path, identity: _Identity, env: Mapping[str, str], *, durable: bool
) -> None:
    """Run initdb beside its final place: a cluster that is there is a whole one."""
    base = directory.private_folder("postgres")
    part = base / "data.part"
    shutil.rmtree(part, ignore_errors=True)
    password_file = base / "password"
    write_private(password_file, directory.secrets.postgres_password)
    if identity.command:
        os.chown(password_file, identity.owner, identity.owner)
    # The builtin provider sorts by code point and knows Unicode's cases; this build has no ICU, and a libc's
    # order changes with the libc.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    access = [f"--username={SUPERUSER}", "--auth=scram-sha-256", f"--pwfile={password_file}"]
    initdb = ChildProcess(
        name="initdb",
        argv=[str(bin_folder / "initdb"), "-D", str(part), *locale, *access, *([] if durable else ["--no-sync"])],
        log=directory.logs / "initdb.log",
        env=env,
        cwd=base,
        identity=identity.command,
        inherit=[directory.lock],
    )
    try:
        initdb.start()
        initdb.ended(within_s=_INITDB_WITHIN_S)
        if initdb.reap() != 0:
            raise ServerDidNotStart(f"PostgreSQL's initdb failed\n{initdb.log_tail()}")
        part.rename(base / "data")
    finally:
        password_file.unlink()


def _give(folder: Path, owner: int) -> None:
    """Make a tree another user's: the service was moved, or is started by another user than before."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def _options(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
