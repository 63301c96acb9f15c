"""The sealer: once a second it seals what was committed, once an hour it signs where the chains stand.

It needs PostgreSQL alone: with the object store away, checkpoints are published when that is back. Killed at any
moment, it goes on where the database says it was. Any number may run: a round is made by one.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from evidence import checkpoints as evidence
from evidence.checkpoints import CheckpointInvalid, Signed, read_statement
from runtime.wiring import Runtime
from services import audit_months, checkpoints, sealing
from storage.errors import StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger(__name__)

_HOUR_S = 3600.0
_MINUTE_S = 60.0


class Sealer:
    """One process's sealing, until `stop` is set."""

    def __init__(self, runtime: Runtime, stop: Event) -> None:
        self._runtime, self._stop = runtime, stop
        key_file = runtime.settings.audit_signing_key_file
        self._key: Ed25519PrivateKey | None = evidence.private_key(key_file) if key_file else None
        self._months_at = self._publish_at = 0.0

    def run(self) -> None:
        """Seal until stopped."""
        while not self._stop.is_set():
            is_more = False
            try:
                is_more = self.seal()
                self.look_after_months()
                self.checkpoint()
            except (SQLAlchemyError, StorageError, OSError) as error:
                # The edge: the next round does what this one could not.
                log.warning("sealing was interrupted (%s)", type(error).__name__)
            except CheckpointInvalid:
                log.exception("the file of checkpoints is to be looked at: nothing is appended to it")
            if not is_more:
                self._stop.wait(self._runtime.settings.audit_seal_every_s)

    def seal(self) -> bool:
        """One round; whether there is more to do at once."""
        with self._runtime.sealer() as session:
            made = sealing.seal(session)
        return made is not None and not made.is_last

    def look_after_months(self) -> None:
        """Once an hour: partitions for the months to come; months that are over their time go, one after the other.

        What somebody's reading prevents is tried again in a minute.
        """
        if time.monotonic() < self._months_at:
            return
        self._months_at = time.monotonic() + _MINUTE_S
        try:
            self._make_and_drop_months()
        except SQLAlchemyError as error:
            log.warning("the months of the audit trail must wait for a minute (%s)", type(error).__name__)
            return
        self._months_at = time.monotonic() + _HOUR_S

    def _make_and_drop_months(self) -> None:
        with self._runtime.sealer() as session:
            audit_months.ensure(session)
        dropped: str | None = ""
        while dropped is not None:
            with self._runtime.sealer() as session:
                dropped = audit_months.drop_oldest(session, kept_months=self._runtime.settings.audit_kept_months)
            if dropped:
                log.info("%s was dropped; its manifest stays", dropped)

    def checkpoint(self) -> None:
        """Sign where the chains stand when it is time, and publish what is not yet."""
        if self._key is None:
            return
        settings = self._runtime.settings
        with self._runtime.sealer() as session:
            is_due = checkpoints.is_due(session, settings.audit_checkpoint_every_s)
            if is_due:
                number = checkpoints.make(session, self._key, installation=settings.organisation)
                log.info("checkpoint %d of the audit trail is signed", number)
        if is_due or time.monotonic() >= self._publish_at:
            self._publish_at = time.monotonic() + _MINUTE_S
            self.publish()
            self._publish_at = time.monotonic() + _HOUR_S

    def publish(self) -> None:
        """Into the locked bucket, and to the end of the file that an outsider keeps, whatever is not there yet."""
        with self._runtime.sealer() as session:
            numbers = checkpoints.numbers(session)
        missing: list[int] = []
        for number in numbers:
            if self._runtime.locked.has(_name(number, "json")):
                break
            missing.append(number)
        for number in reversed(missing):
            with self._runtime.sealer() as session:
                published = checkpoints.publication(session, number)
            self._runtime.locked.put(_name(number, "seals.gz"), published.segment)
            # Last: where it is, the segment is too.
            self._runtime.locked.put(_name(number, "json"), published.line.encode())
        if (file := self._runtime.settings.audit_checkpoint_file) is not None:
            self._keep(file)

    def _keep(self, file: Path) -> None:
        """Append what the file lacks. Raises BlockingIOError while another sealer does, CheckpointInvalid."""
        with file.open("a+b") as kept:
            # Not waited for: whoever holds it may have been stopped.
            fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept.seek(0)
            last, end = _last_whole(kept)
            # What a full disk or a kill left of a line: the next one would be written straight after it.
            if kept.seek(0, os.SEEK_END) > end:
                kept.truncate(end)
            with self._runtime.sealer() as session:
                lines = checkpoints.lines_after(session, _number(last) if last else 0)
            kept.write("".join(line + "\n" for _, line in lines).encode())
            kept.flush()
            os.fsync(kept.fileno())


def _name(number: int, kind: str) -> str:
    return f"checkpoints/{number:08}.{kind}"


def _last_whole(lines: Iterable[bytes]) -> tuple[bytes, int]:
    """The last line that ends, empty where none does; and how many bytes there are to its end."""
    last, end = b"", 0
    for line in lines:
        if line.endswith(b"\n"):
            last, end = line, end + len(line)
    return last, end


def _number(line: bytes) -> int:
    """Of a line's checkpoint. Raises CheckpointInvalid."""
    try:
        return read_statement(Signed.parse(line.decode()).statement).number
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointInvalid("the file's last line is no checkpoint") from error
