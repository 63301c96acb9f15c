"""Base models: proposed as a manifest, filled file by file, ready when every digest has arrived."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.adapters import check_name
from domain.audit import AuditEvent
from domain.base_models import BaseModelFacts, TensorGroup, WeightsFacts, check_manifest, merged_groups
from domain.digests import Manifest, ManifestFile
from domain.refusals import BaseModelDiffers, NotFound, UnknownBaseModel
from models_db.base_models import BaseModel, BaseModelFile
from services import audit

UPLOADING, READY = "uploading", "ready"


def propose(session: Session, principal: Principal, *, name: str, source: str, manifest: Manifest) -> BaseModel:
    """Say which files the base model consists of. The same manifest again answers with what is there already.

    Raises BaseModelDiffers where the name stands for other files: a base model never changes.
    """
    require(principal, Permission.BASE_MODEL_REGISTER)
    check_name(name, param="id")
    check_manifest(manifest)
    created = session.scalars(
        insert(BaseModel)
        .values(
            name=name, state=UPLOADING, digest=manifest.digest, source=source, facts={"bytes": manifest.total_bytes}
        )
        .on_conflict_do_nothing()
        .returning(BaseModel)
    ).one_or_none()
    if created is None:
        existing = get(session, principal, name)
        if existing.digest != manifest.digest:
            raise BaseModelDiffers("A base model of that name has other files.", param="files")
        return existing
    created.files = [BaseModelFile(path=file.path, bytes=file.bytes, digest=file.digest) for file in manifest.files]
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.BASE_MODEL_PROPOSED,
        resource=("base_model", created.id),
        details={"digest": created.digest},
    )
    return created


def expected_file(session: Session, principal: Principal, name: str, path: str) -> ManifestFile:
    """What a file to be uploaded must be. Raises NotFound."""
    require(principal, Permission.BASE_MODEL_REGISTER)
    found = session.get(BaseModelFile, (get(session, principal, name).id, path))
    if found is None:
        raise NotFound("The base model has no such file.")
    return ManifestFile(path=found.path, bytes=found.bytes, digest=found.digest)


def record_file(
    session: Session,
    principal: Principal,
    name: str,
    path: str,
    *,
    config: BaseModelFacts | None,
    weights: WeightsFacts | None,
) -> BaseModel:
    """A file's bytes have arrived and matched. `config` or `weights` are what it says, where it is such a file.

    With the last missing file the base model becomes ready.
    """
    require(principal, Permission.BASE_MODEL_REGISTER)
    base_model = session.scalars(select(BaseModel).where(BaseModel.name == name).with_for_update()).one()
    file = session.get_one(BaseModelFile, (base_model.id, path))
    if file.uploaded_at is not None:
        return base_model
    file.uploaded_at = session.scalar(select(func.now()))
    base_model.facts = _merged(base_model.facts, config, weights)
    session.flush()
    if all(known.uploaded_at is not None for known in base_model.files):
        facts_of(base_model)
        base_model.state = READY
        audit.record(
            session,
            principal,
            AuditEvent.BASE_MODEL_REGISTERED,
            resource=("base_model", base_model.id),
            details={"digest": base_model.digest, "bytes": base_model.facts["bytes"]},
        )
    return base_model


def _merged(facts: dict[str, object], config: BaseModelFacts | None, weights: WeightsFacts | None) -> dict[str, object]:
    merged = dict(facts)
    if config is not None:
        merged |= config.model_dump(mode="json", include=set(BaseModelFacts.model_fields) - _COUNTED)
    if weights is not None:
        merged["parameters"] = weights.parameters + int(str(merged.get("parameters", 0)))
        merged["linear_modules"] = sorted({*weights.linear_modules, *_listed(merged, "linear_modules")})
        known = [TensorGroup.model_validate(group, strict=False) for group in _listed(merged, "tensors")]
        merged["tensors"] = [group.model_dump(mode="json") for group in merged_groups([*known, *weights.tensors])]
    return merged


def _listed(facts: dict[str, object], name: str) -> list[Any]:
    found = facts.get(name, [])
    return found if isinstance(found, list) else []


_COUNTED = {"parameters", "bytes", "linear_modules", "tensors"}


def facts_of(base_model: BaseModel) -> BaseModelFacts:
    """The stored facts as a value."""
    return BaseModelFacts.model_validate(base_model.facts, strict=False)


def manifest_of(base_model: BaseModel) -> Manifest:
    """Its files, to be fetched by digest."""
    return Manifest.of(ManifestFile(path=f.path, bytes=f.bytes, digest=f.digest) for f in base_model.files)


def get(session: Session, principal: Principal, name: str) -> BaseModel:
    """One base model by name, ready or not. Raises NotFound."""
    found = find(session, principal, name)
    if found is None:
        raise NotFound("No such base model.")
    return found


def find(session: Session, principal: Principal, name: str) -> BaseModel | None:
    """One base model by name, ready or not, if there is one."""
    require(principal, Permission.BASE_MODEL_READ)
    return session.scalars(select(BaseModel).where(BaseModel.name == name)).one_or_none()


def get_ready(session: Session, name: str) -> BaseModel:
    """One that jobs can train on. Raises UnknownBaseModel: a path or a hub id is never a name."""
    found = session.scalars(select(BaseModel).where(BaseModel.name == name, BaseModel.state == READY)).one_or_none()
    if found is None:
        raise UnknownBaseModel("No base model of that name is registered here.", param="model")
    return found


def list_all(session: Session, principal: Principal) -> Sequence[BaseModel]:
    """Every base model, newest first."""
    require(principal, Permission.BASE_MODEL_READ)
    return session.scalars(select(BaseModel).order_by(BaseModel.id.desc())).all()
