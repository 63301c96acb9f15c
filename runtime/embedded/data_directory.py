"""The data directory: who holds it, and the secrets kept in it."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from domain.frozen import Frozen
from runtime.embedded.errors import DataDirectoryInUse, SecretsMissing

# Servers whose owner was killed need this long to end at most; until then they hold the lock.
_ORPHANS_END_WITHIN_S = 10.0
_POLL_S = 0.05


class Secrets(Frozen):
    """The servers' credentials, made at the first start."""

    postgres_password: str = Field(repr=False)
    valkey_password: str = Field(repr=False)
    s3_access_key: str = Field(repr=False)
    s3_secret_key: str = Field(repr=False)


@dataclass(frozen=True)
class DataDirectory:
    """A data directory that is ours.

    Servers inherit `lock`, an open file, and so hold the lock too: whoever gets it knows that no server of a killed
    owner still writes here.
    """

    path: Path
    lock: int
    secrets: Secrets

    @property
    def logs(self) -> Path:
        """One log file a server."""
        return self.path / "logs"

    def private_folder(self, name: str) -> Path:
        """A folder of one server, made where it is not there."""
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


@contextmanager
def held(directory: Path) -> Iterator[DataDirectory]:
    """Create the directory where it is not there and hold it. Raises DataDirectoryInUse, SecretsMissing."""
    # Others may pass through but not list: PostgreSQL runs as another user, everything inside is private to its user.
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, directory)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        ours = DataDirectory(directory, descriptor, _secrets(directory))
        ours.private_folder("logs")
        yield ours
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, over an existing one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def _lock(descriptor: int, directory: Path) -> None:
    deadline = time.monotonic() + _ORPHANS_END_WITHIN_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode()
            if _is_alive(owner):
                raise DataDirectoryInUse(f"process {owner} already runs services on {directory}") from None
            if time.monotonic() > deadline:
                raise DataDirectoryInUse(
                    f"servers started by process {owner or '(unknown)'}, which has ended, still run on {directory}"
                ) from None
            time.sleep(_POLL_S)


def _is_alive(owner: str) -> bool:
    return owner.isdigit() and Path("/proc", owner).exists()


def _secrets(directory: Path) -> Secrets:
    """Read DIR/secrets.json; made up and written where there is none."""
    path = directory / "secrets.json"
    if path.exists():
        return Secrets.model_validate_json(path.read_bytes())
    if (directory / "postgres" / "data").exists():
        raise SecretsMissing(f"{path} is gone, and with it the passwords of the servers on {directory}")
    made = Secrets(
        postgres_password=secrets.token_hex(24),
        valkey_password=secrets.token_hex(24),
        s3_access_key="TS" + secrets.token_hex(9).upper(),
        s3_secret_key=secrets.token_hex(24),
    )
    write_private(path, made.model_dump_json())
    return made
