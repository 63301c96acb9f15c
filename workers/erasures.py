"""The erasing of files that two people agreed to, beside the sweeper: a store that is away takes minutes."""

import logging
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from domain.failpoints import FailPoint, failpoint
from runtime.erasing import erase_blobs
from runtime.wiring import Runtime
from services import blobs, file_erasures
from storage.errors import StorageUnavailable
from workers.retention import erase_checkpoints

log = logging.getLogger(__name__)


class Eraser:
    """Carries out what is confirmed. Any number may; where one dies, the next does the same."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def erase_all(self) -> None:
        """Go through all that is confirmed and not done, once."""
        with self._runtime.platform() as session:
            under_way = file_erasures.under_way(session)
        for erasure, department in under_way:
            try:
                self._erase(erasure, department)
            except (StorageUnavailable, SQLAlchemyError) as error:
                # Its turn comes again; the others are not to wait for it.
                log.warning("erasure %s could not be carried out (%s)", erasure, type(error).__name__)

    def _erase(self, erasure: UUID, department: UUID) -> None:
        with self._runtime.department(department) as session:
            work = file_erasures.mark(session, erasure)
        if work is None:
            return
        failpoint(FailPoint.ERASURE_MARKED)
        erased = erase_blobs(
            self._runtime, department, work.blobs, lambda session: blobs.announce(session, department, work.blobs)
        )
        erase_checkpoints(self._runtime, list(work.checkpoints))
        failpoint(FailPoint.ERASURE_OBJECTS_GONE)
        with self._runtime.department(department) as session:
            file_erasures.finish(session, erasure, work, erased=erased)
        log.info(
            "erasure %s: %d objects and %d checkpoints are gone, %d objects are others' too",
            *(erasure, len(erased), len(work.checkpoints), len(work.blobs) - len(erased)),
        )
