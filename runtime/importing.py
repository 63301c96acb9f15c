"""A PEFT folder from elsewhere, on its way to a version: checked by our own readers, then signed, stored and entered.

Nothing here opens a file with a library, and no file of it is run: what is read is JSON of bounded size, and numbers.
"""

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

from domain.access import Principal
from domain.attestations import IMPORT, Dependency, Provenance
from domain.digests import manifest_of_tree
from domain.peft_folders import CONFIG, ImportSpec, check_complete, check_folder, read_config
from models_db.adapters import AdapterVersion
from runtime.attesting import attest
from runtime.wiring import Runtime
from services import base_models, blobs, imports


def import_folder(
    runtime: Runtime, principal: Principal, name: str, folder: Path, *, department: UUID
) -> AdapterVersion:
    """Make the folder the next version of an adapter. Raises what is wrong with it; then nothing of it is kept."""
    check_complete([path.name for path in folder.iterdir()])
    config = read_config((folder / CONFIG).read_bytes())
    with runtime.department(department) as session:
        base_model = imports.base_model_of(session, principal, config)
        facts = base_models.facts_of(base_model)
    check_folder(folder, config, facts)
    manifest = manifest_of_tree(folder)
    with runtime.department(department) as session:
        imports.check_files(session, principal, manifest)
        stored_since = blobs.clock(session)
    spec = ImportSpec(
        base_model=base_model.name,
        base_model_digest=base_model.digest,
        method=config.method,
        peft_version=config.peft_version,
    )
    provenance = _provenance(principal, name, spec, organisation=runtime.settings.organisation, at=stored_since)
    attested = attest(runtime, department, folder, provenance)
    runtime.objects.put_tree(department, folder)
    with runtime.department(department) as session:
        return imports.register(
            session,
            principal,
            name,
            base_model.id,
            method=spec.method,
            organisation=runtime.settings.organisation,
            manifest=manifest,
            attested=attested,
            stored_since=stored_since,
        )


def _provenance(principal: Principal, name: str, spec: ImportSpec, *, organisation: str, at: datetime) -> Provenance:
    """What can be said of an adapter that somebody brought: what it was checked against, not how it was trained."""
    return Provenance(
        build_type=IMPORT,
        adapter=name,
        external_parameters=spec,
        internal_parameters={},
        dependencies=(Dependency(name=f"base_model:{spec.base_model}", digest=spec.base_model_digest),),
        builder=f"urn:tsugiki:service:{organisation}",
        builder_versions={package: version(package) for package in ("tsugiki", "model-signing")},
        invocation=principal.request_id or "",
        finished_at=at,
    )
