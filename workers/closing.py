"""What is left of closed departments: their objects first, then their rows. The trail stays."""

import logging
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from runtime.wiring import Runtime
from services import closing
from storage.errors import StorageUnavailable
from storage.keys import prefix_of

log = logging.getLogger(__name__)


def erase_closed(runtime: Runtime) -> None:
    """Erase the departments whose time is over. Any number may do so at a time: their rows go once."""
    with runtime.platform() as session:
        due = closing.to_erase(session, runtime.settings.closed_kept)
    for department in due:
        try:
            _erase(runtime, department)
        except (StorageUnavailable, SQLAlchemyError) as error:
            # The next sweep finds it again; the others are not to wait for it.
            log.warning("department %s could not be erased (%s)", department, type(error).__name__)


def _erase(runtime: Runtime, department: UUID) -> None:
    # Objects before rows: what is left when this is stopped in between is still a department to be erased.
    objects = 0
    while page := runtime.objects.list_page(department).objects:
        for stored in page:
            runtime.objects.erase(stored.key)
        objects += len(page)
    runtime.objects.abort_uploads(prefix_of(department), older_than_s=0)
    with runtime.platform() as session:
        rows = closing.erase(session, department, kept=runtime.settings.closed_kept, objects=objects)
    log.info("department %s: erased, %d objects and %d rows", department, objects, rows)
