"""Adapters from elsewhere: proposed by a trainer, entered as candidates, approved as any other."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.adapters import VersionState, check_name, model_name
from domain.audit import AuditEvent, Outcome
from domain.data_classes import DataClass, strictest
from domain.digests import Manifest
from domain.outgoing import OutgoingKind
from domain.peft_folders import WEIGHTS, ImportedConfig
from domain.refusals import BaseModelMismatch, Refusal, VersionWithdrawn
from domain.runs import LoraMethod
from models_db.adapters import AdapterVersion, LineageEdge
from models_db.base_models import BaseModel
from models_db.departments import Department
from services import adapters, aliases, attestations, audit, base_models, blobs, limits, outbox
from services.attestations import Attested


def begin(principal: Principal, name: str) -> None:
    """May they, before anything is received?"""
    require(principal, Permission.ADAPTER_IMPORT)
    check_name(name, param="name")


def base_model_of(session: Session, principal: Principal, config: ImportedConfig) -> BaseModel:
    """The base model that a configuration names. Raises BaseModelMismatch where it is none of the registry's."""
    require(principal, Permission.ADAPTER_IMPORT)
    found = base_models.find(session, principal, config.base_model_name_or_path)
    if found is None or found.state != base_models.READY:
        raise BaseModelMismatch(
            "base_model_name_or_path is not the name of a base model that is registered here.",
            param="base_model_name_or_path",
        )
    return found


def check_files(session: Session, principal: Principal, manifest: Manifest) -> None:
    """Raise QuotaSpent and VersionWithdrawn where `register` would: before the bytes are stored, and not after."""
    require(principal, Permission.ADAPTER_IMPORT)
    limits.check_room(session, manifest.total_bytes, param="files")
    _known(session, manifest)


def _known(session: Session, manifest: Manifest) -> AdapterVersion | None:
    """The department's first version of these weights, byte by byte. Raises VersionWithdrawn where one was stopped."""
    (weights,) = (file.digest for file in manifest.files if file.path == WEIGHTS)
    same = select(AdapterVersion).where(AdapterVersion.manifest.contains({"files": [{"digest": weights}]}))
    found = session.scalars(same.order_by(AdapterVersion.id)).all()
    if stopped := [each for each in found if each.state in {VersionState.REJECTED, VersionState.REVOKED}]:
        raise VersionWithdrawn(f"These are the weights of a version that was {stopped[0].state}.", param="files")
    return found[0] if found else None


def register(
    session: Session,
    principal: Principal,
    name: str,
    base_model: UUID,
    *,
    method: LoraMethod,
    organisation: str,
    manifest: Manifest,
    attested: Attested,
    stored_since: datetime,
) -> AdapterVersion:
    """Enter an adapter whose files were found in order, as a candidate. They are in storage already.

    stored_since is the time before they were put. Raises QuotaSpent, VersionWithdrawn, and BytesErased: they have to be
    put again.
    """
    require(principal, Permission.ADAPTER_IMPORT)
    limits.check_room(session, manifest.total_bytes, param="files")
    known = _known(session, manifest)
    digests = attested.digests | {file.digest for file in manifest.files}
    blobs.confirm(session, principal.department, digests, stored_since=stored_since)
    version = _next_version(session, principal, name, session.get_one(BaseModel, base_model),
                            method=method, organisation=organisation, manifest=manifest, known=known)  # fmt: skip
    attestations.enter(session, version, attested)
    session.add(_edge(version, "grafted_on", "base_model", base_model))
    if known is not None:
        # It goes when what it learned from is erased.
        session.add(_edge(version, "continued_from", "adapter_version", known.id))
    _record(session, principal, version, attested)
    return version


def _edge(version: AdapterVersion, relation: str, object_type: str, object_id: UUID) -> LineageEdge:
    return LineageEdge(
        department_id=version.department_id,
        subject_type="adapter_version",
        subject_id=version.id,
        relation=relation,
        object_type=object_type,
        object_id=object_id,
    )


def _next_version(
    session: Session,
    principal: Principal,
    name: str,
    base_model: BaseModel,
    *,
    method: LoraMethod,
    organisation: str,
    manifest: Manifest,
    known: AdapterVersion | None,
) -> AdapterVersion:
    assert principal.department is not None  # noqa: S101 - a department's session is open
    adapter, number = adapters.take_number(session, principal.department, name)
    # Its name has its id in it, so the id is asked for first; of the database, which makes them sort by time.
    key: UUID = session.execute(select(func.uuidv7())).scalar_one()
    version = AdapterVersion(
        id=key,
        department_id=principal.department,
        adapter_id=adapter.id,
        number=number,
        job_id=None,
        base_model_id=base_model.id,
        state=VersionState.CANDIDATE,
        model_name=model_name(base_model.name, organisation, adapter.name, key.hex),
        digest=manifest.digest,
        manifest=manifest.model_dump(mode="json"),
        report=None,
        imported_method=method.model_dump(mode="json"),
        created_by=principal.id,
        created_by_type=principal.type,
        submitter_id=principal.human,
        data_class=_data_class(session.get_one(Department, principal.department), known),
    )
    session.add(version)
    session.flush()
    return version


def _data_class(department: Department, known: AdapterVersion | None) -> DataClass:
    """Nobody here knows the rows that it learned from; what was here before is no less secret now."""
    classes = [department.default_data_class, *([known.data_class] if known else [])]
    return strictest(map(DataClass, classes))


def _record(session: Session, principal: Principal, version: AdapterVersion, attested: Attested) -> None:
    subject, refs = ("adapter_version", version.id), [version.adapter_id, version.base_model_id]
    details = {"number": version.number, "digest": version.digest} | attested.told()
    audit.record(session, principal, AuditEvent.VERSION_IMPORTED, resource=subject, refs=refs, details=details)
    aliases.follow_newest(session, version)
    outbox.announce_version(session, OutgoingKind.VERSION_REGISTERED, version)


def refuse(session: Session, principal: Principal, refusal: Refusal) -> None:
    """Write down that an adapter was not let in: all that is left of it."""
    require(principal, Permission.ADAPTER_IMPORT)
    audit.record(
        session,
        principal,
        AuditEvent.VERSION_IMPORT_REFUSED,
        outcome=Outcome.FAILURE,
        reason=refusal.code,
    )
