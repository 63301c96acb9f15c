"""The sweeper's slow round through the object store, beside its own: no lost lease waits for it."""

import logging
import time
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from runtime.erasing import erase_blobs
from runtime.wiring import Runtime
from services import blobs, policies, retention
from services.retention import ErasedCheckpoint
from storage.errors import StorageUnavailable
from storage.keys import BASE_MODELS, prefix_of
from storage.listing import StoredObject
from workers.closing import erase_closed

log = logging.getLogger(__name__)

PORTION_S = 3.0
# Objects looked at, and so erased at most, between two looks at the clock.
PAGE = 200


class StorageSweep:
    """Looks after one department's objects after the other's. Whose turn it is is kept in the database."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def portion(self) -> None:
        """Look on for a few seconds. Any number may do so at a time: a turn is taken by one."""
        until = time.monotonic() + PORTION_S
        erase_closed(self._runtime)
        while time.monotonic() < until:
            with self._runtime.platform() as session:
                department = retention.next_due(session)
            if department is None:
                return
            try:
                self._look_on(department)
            except (StorageUnavailable, SQLAlchemyError) as error:
                # Its turn comes again; the others' are not to wait for it.
                log.warning("department %s: its objects could not be swept (%s)", department, type(error).__name__)

    def _look_on(self, department: UUID) -> None:
        """One page of a department's objects; with the first, the checkpoints of its finished jobs."""
        settings, objects = self._runtime.settings, self._runtime.objects
        with self._runtime.department(department) as session:
            after = retention.begin_sweep(session, department, every_s=settings.storage_sweep_every_s)
        if after is None:
            return
        if not after:
            self._expire_checkpoints(department)
        page = objects.list_page(department, after=after, limit=PAGE)
        self._erase_orphans(department, [stored for stored in page.objects if stored.age_s >= settings.orphan_after_s])
        if page.last is None:
            self._abort_uploads(department)
        with self._runtime.department(department) as session:
            retention.end_sweep(session, department, swept_to=page.last)
            blobs.forget(session)

    def _expire_checkpoints(self, department: UUID) -> None:
        with self._runtime.department(department) as session:
            ttl = policies.checkpoint_ttl(session, self._runtime.settings.checkpoint_ttl)
            warned = retention.warn(session, ttl)
        with self._runtime.department(department) as session:
            expired = retention.expire(session, ttl)
        erase_checkpoints(self._runtime, expired)
        if warned or expired:
            total = sum(checkpoint.manifest.total_bytes for checkpoint in expired)
            log.info(
                "department %s: %d jobs warned, %d checkpoints erased (%d bytes)",
                *(department, warned, len(expired), total),
            )

    def _erase_orphans(self, department: UUID, old: list[StoredObject]) -> None:
        with self._runtime.department(department) as session:
            orphans = retention.orphans(session, old)
        if not orphans:
            return
        digests = [digest for stored in orphans if (digest := stored.key.blob_digest)]
        erased = erase_blobs(
            self._runtime,
            department,
            digests,
            lambda session: retention.announce_orphans(session, department, orphans),
        )
        files = [stored.key for stored in orphans if stored.key.checkpoint_place]
        for key in files:
            self._runtime.objects.erase(key)
        gone = [stored for stored in orphans if stored.key.blob_digest in {None, *erased.gone}]
        log.info(
            "department %s: %d blobs and %d files of checkpoints erased that no row named (%d bytes)",
            *(department, len(erased.gone), len(files), sum(stored.size_bytes for stored in gone)),
        )

    def _abort_uploads(self, department: UUID) -> None:
        older_than_s = self._runtime.settings.orphan_after_s
        # The base models' have no turn of their own.
        for prefix in (prefix_of(department), BASE_MODELS):
            aborted = self._runtime.objects.abort_uploads(prefix, older_than_s=older_than_s)
            if aborted:
                log.info("%s: %d unfinished uploads in parts given up", prefix, aborted)


def erase_checkpoints(runtime: Runtime, erased: list[ErasedCheckpoint]) -> None:
    """Remove the objects of checkpoints that are marked as erased. Raises StorageUnavailable: a later sweep does it."""
    for checkpoint in erased:
        for key in checkpoint.keys:
            runtime.objects.erase(key)
