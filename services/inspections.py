"""What rows come to under a base model's tokenizer, kept: the next estimate of them, and their job, need not count."""

import logging
from dataclasses import dataclass
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.digests import Digest, Manifest, digest_of
from domain.plans import InspectReport
from domain.runs import RunData
from models_db.estimates import Inspection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counting:
    """Rows to be counted, for a job or an estimate: what a validator needs."""

    subject: UUID
    department: UUID
    data: RunData
    base_model: Manifest

    @property
    def key(self) -> Digest:
        """Under which the result is kept."""
        return key_of(self.data, self.base_model.digest)


def key_of(data: RunData, base_model: Digest) -> Digest:
    """A digest of all that a result depends on: the rows' own digests, how they are taken, and the base model's."""
    return digest_of(f"{base_model} {data.model_dump_json()}".encode())


def find(session: Session, key: Digest) -> InspectReport | None:
    """What is kept of the department's; None also where a former version kept it in another form."""
    kept = session.scalars(select(Inspection.report).where(Inspection.key == key)).one_or_none()
    if kept is None:
        return None
    try:
        return InspectReport.model_validate(kept, strict=False)
    except ValidationError:
        log.warning("the inspection %s is of another form", key)
        return None


def keep(session: Session, counting: Counting, report: InspectReport) -> None:
    """Keep a result, findings included, in place of an earlier one."""
    kept = {"report": dumped(report), "created_at": func.now()}
    statement = insert(Inspection).values(department_id=counting.department, key=counting.key, **kept)
    session.execute(statement.on_conflict_do_update(constraint="pk_inspections", set_=kept))


def dumped(report: InspectReport) -> dict[str, object]:
    """A report without the rows it shows: those are content."""
    return report.model_dump(mode="json", exclude={"files": {"__all__": {"preview"}}})
