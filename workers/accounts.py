"""What is written down of departments day by day and month by month, at the sweeper's pace."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from runtime.wiring import Runtime
from services import limits, usage

log = logging.getLogger(__name__)


def keep_accounts(runtime: Runtime) -> None:
    """Sample what departments store, once a day, and warn those whose budget draws to an end, once a month."""
    settings = runtime.settings

    def sample(session: Session, department: UUID) -> None:
        usage.sample(session, department, settings.price_per_gb_month)

    def warn(session: Session, _department: UUID) -> None:
        limits.warn(session, currency=settings.currency)

    for listed, write in ((usage.to_sample, sample), (limits.to_warn, warn)):
        _for_each(runtime, listed, write)


def _for_each(
    runtime: Runtime, listed: Callable[[Session], Sequence[UUID]], write: Callable[[Session, UUID], None]
) -> None:
    with runtime.platform() as session:
        due = listed(session)
    for department in due:
        try:
            with runtime.department(department) as session:
                write(session, department)
        except SQLAlchemyError:
            # The next sweep finds it again; the others are not to wait for it.
            log.exception("department %s: its accounts could not be kept", department)
