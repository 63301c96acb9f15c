"""Valkey on the data directory, as the queue's broker: one password, an append-only file, nothing evicted."""

import os
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runtime.embedded.data_directory import DataDirectory, write_private
from runtime.processes import ChildProcess

_CONFIGURATION = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
daemonize no
# A killed server loses a second of messages at most, and each can be rung for again.
appendonly yes
appendfsync everysec
save ""
# A full queue refuses new messages; it does not drop old ones.
maxmemory-policy noeviction
"""


@dataclass
class Valkey:
    """One Valkey server: its process and its URL."""

    process: ChildProcess
    url: str

    def is_ready(self) -> bool:
        """Whether it answers the password with its data loaded."""
        with redis.Redis.from_url(self.url, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def valkey(directory: DataDirectory, program: Path, *, port: int) -> Valkey:
    """Prepare DIR/valkey. The password goes in a private file: arguments are everybody's to read."""
    folder = directory.private_folder("valkey")
    password = directory.secrets.valkey_password
    configuration = folder / "valkey.conf"
    write_private(configuration, _CONFIGURATION.format(port=port, password=password, folder=folder))
    process = ChildProcess(
        name="valkey",
        argv=[str(program), str(configuration)],
        log=directory.logs / "valkey.log",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(folder)},
        cwd=folder,
        inherit=[directory.lock],
    )
    return Valkey(process, f"redis://:{password}@127.0.0.1:{port}/0")
