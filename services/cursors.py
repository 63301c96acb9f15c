"""Where a page of a list begins."""

from uuid import UUID

from sqlalchemy.orm import Session

from domain.refusals import NotFound
from models_db.base import Table


def known_cursor(session: Session, table: type[Table], after: UUID) -> UUID:
    """The cursor, if its row is the department's, deleted or not. Raises NotFound: a foreign one places nothing."""
    if session.get(table, after) is None:
        raise NotFound("No such object.", param="after")
    return after
