"""Versions that jobs go on from: found by the client's name, and fit to be trained further."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.adapters import VersionState
from domain.approvals import ApprovalState
from domain.continuing import ParentFacts
from domain.digests import Manifest
from domain.refusals import ParentUnusable, UnknownBaseModel
from domain.runs import LoraInit, LoraMethod, RunSpec
from models_db.adapters import Adapter, AdapterVersion
from models_db.approvals import ApprovalRequest
from models_db.jobs import Job

MODEL_PREFIX = "ft:"
# Nobody gets them any more, and what goes on from them would be them.
_WITHDRAWN = frozenset({VersionState.REJECTED, VersionState.REVOKED})


@dataclass(frozen=True)
class Parent:
    """A version to go on from, and the adapter that the job's version joins where it is not told another."""

    version: AdapterVersion
    adapter: str
    facts: ParentFacts


def get_usable(session: Session, model: str) -> Parent:
    """The version behind an `ft:…` name. Raises UnknownBaseModel, and ParentUnusable where nobody goes on from it.

    It is locked against being withdrawn until the job that names it is entered.
    """
    named = select(AdapterVersion).where(AdapterVersion.model_name == model)
    version = session.scalars(named.with_for_update(read=True)).one_or_none()
    if version is None:
        raise UnknownBaseModel("No base model and no version of that name is registered here.", param="model")
    if objection := _objection(session, version):
        raise ParentUnusable(objection, param="model")
    method = _method_of(session, version)
    if method.init is LoraInit.PISSA:
        # Its files are a plain adapter of other ranks, layer by layer, which only they know.
        raise ParentUnusable("A version that began with PiSSA cannot be continued.", param="model")
    adapter = session.get_one(Adapter, version.adapter_id).name
    return Parent(version, adapter, ParentFacts(digest=version.digest, method=method))


def _method_of(session: Session, version: AdapterVersion) -> LoraMethod:
    """As the job asked for it; of a version that was imported, as its configuration says."""
    if version.job_id is None:
        return LoraMethod.model_validate(version.imported_method, strict=False)
    return RunSpec.model_validate(session.get_one(Job, version.job_id).spec, strict=False).lora


def _objection(session: Session, version: AdapterVersion) -> str | None:
    """Why no job may go on from it."""
    if version.state in _WITHDRAWN:
        return f"This version is {version.state}."
    if version.deleted_at is not None:
        return "This version was deleted."
    # Retired since, which is no better.
    rejected = ApprovalRequest.version_id == version.id, ApprovalRequest.state == ApprovalState.REJECTED
    if session.scalars(select(ApprovalRequest.id).where(*rejected).limit(1)).first() is not None:
        return "This version was rejected."
    return None


@dataclass(frozen=True)
class ParentFiles:
    """What a worker fetches of a job's parent; is_usable: as of the claim."""

    manifest: Manifest
    is_usable: bool


def files_of(session: Session, version: UUID) -> ParentFiles:
    """The parent's files."""
    found = session.get_one(AdapterVersion, version)
    manifest = Manifest.model_validate(found.manifest, strict=False)
    return ParentFiles(manifest, is_usable=_objection(session, found) is None)
