"""What a job's OpenLineage event says, read when it is sent: what a run used never changes."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.openlineage import AdapterState, FileUsed, RunFacts, run_event
from models_db.adapters import Adapter, AdapterVersion
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from services.outbox import Parcel


def document(session: Session, parcel: Parcel, *, organisation: str, release: str) -> dict[str, Any]:
    """The RunEvent of a job's event, in its department's session."""
    job = session.get_one(Job, parcel.subject)
    base_model = session.get_one(BaseModel, job.base_model_id)
    made = session.scalars(select(AdapterVersion).where(AdapterVersion.job_id == job.id)).one_or_none()
    facts = RunFacts(
        organisation=organisation,
        department=job.department_id,
        job=job.id,
        adapter=job.adapter_name,
        base_model=base_model.name,
        base_model_digest=base_model.digest,
        files=_files(session, job),
        parent=_state(session, session.get_one(AdapterVersion, parent)) if (parent := job.parent_version_id) else None,
        made=_state(session, made) if made else None,
        error=job.error["message"] if job.error else None,
        release=release,
    )
    return run_event(parcel.kind, parcel.created_at, facts)


def _files(session: Session, job: Job) -> list[FileUsed]:
    named = (job.training_file_id, job.validation_file_id, job.evaluation_file_id)
    # One file may be two of them.
    found = [session.get_one(File, file) for file in dict.fromkeys(named) if file is not None]
    return [FileUsed(file.id, file.digest, bytes=file.bytes, rows=file.rows) for file in found]


def _state(session: Session, version: AdapterVersion) -> AdapterState:
    return AdapterState(session.get_one(Adapter, version.adapter_id).name, version.digest)
