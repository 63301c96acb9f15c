"""The erasing of files that two people agreed to, beside the sweeper: a store that is away takes minutes."""

import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from domain.digests import Digest
from domain.failpoints import FailPoint, failpoint
from runtime.erasing import Erased, erase_blobs
from runtime.wiring import Runtime
from services import blobs, file_erasures
from storage.errors import StorageUnavailable
from workers.retention import erase_checkpoints

log = logging.getLogger(__name__)

# Blobs whose requests are signed together: they have to be sent within a minute.
PORTION = 100


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
        erased = self._erase_blobs(department, work.blobs)
        erase_checkpoints(self._runtime, list(work.checkpoints))
        failpoint(FailPoint.ERASURE_OBJECTS_GONE)
        with self._runtime.department(department) as session:
            file_erasures.finish(session, erasure, work, erased=erased)
        log.info(
            "erasure %s: %d objects and %d checkpoints are gone, %d objects are others' too",
            *(erasure, len(erased), len(work.checkpoints), len(work.blobs) - len(erased)),
        )

    def _erase_blobs(self, department: UUID, digests: Sequence[Digest]) -> list[Digest]:
        """Those that are gone; the others are named by other rows. Raises StorageUnavailable where one may be left."""
        gone: list[Digest] = []
        left = list(digests)
        while left:
            portion, left = left[:PORTION], left[PORTION:]
            erased = self._erase_portion(department, portion)
            if erased.late and not erased.gone:
                raise StorageUnavailable("the object store refused to erase")
            gone += erased.gone
            # Signed anew.
            left += erased.late
        return gone

    def _erase_portion(self, department: UUID, digests: Sequence[Digest]) -> Erased:
        return erase_blobs(
            self._runtime, department, digests, lambda session: blobs.announce(session, department, digests)
        )
