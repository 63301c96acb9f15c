"""From a submitted job to a registered version, with the real engine."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from domain.adapters import LATEST
from domain.digests import Manifest
from domain.jobs import JobState
from models_db.adapters import Adapter, Alias, Evaluation, LineageEdge
from services import attestations
from signing.envelopes import unseal
from storage.keys import Key
from workers.validation import validate


def test_a_job_travels_from_its_files_to_a_registered_version(department: Any, tmp_path: Path) -> None:
    held_out = department.upload(department.rows(6, salt=99))
    job = department.submit(validation_file=held_out, evaluation_file=held_out)
    assert department.job(job).state == JobState.VALIDATING_FILES
    validate(department.runtime, job)
    assert department.job(job).state == JobState.QUEUED, department.job(job).error
    assert department.job(job).inspection["files"][0]["rows"] == 16

    assert department.worker().run_next()

    finished = department.job(job)
    assert (finished.state, finished.error) == (JobState.SUCCEEDED, None)
    assert finished.lease_id is None
    assert finished.progress["step"] == finished.progress["total_steps"] == 4
    (version,) = department.versions(job)
    assert (version.number, version.report["steps"]) == (1, 4)
    assert finished.trained_tokens == version.report["trained_tokens"] > 0
    with department.runtime.department(department.id) as session:
        latest = session.scalars(select(Alias).where(Alias.name == LATEST)).one()
        edges = session.scalars(select(LineageEdge).where(LineageEdge.subject_id == version.id)).all()
        evaluation = session.scalars(select(Evaluation)).one()
        assert session.scalars(select(Adapter)).one().next_number == 2
    assert latest.version_id == version.id
    assert {(edge.relation, edge.object_id) for edge in edges} >= {
        ("produced_by", job), ("trained_on", finished.training_file_id), ("grafted_on", finished.base_model_id),
    }  # fmt: skip
    assert evaluation.base_report["rows"] == evaluation.adapter_report["rows"] == 6
    assert [record.resource_id for record in department.audited("adapter.version.registered")] == [version.id]
    # It is signed, with what was asked for and what it was made from; both were stored before it was entered.
    with department.runtime.department(department.id) as session:
        signed = {each.kind: each for each in attestations.of_version(session, version.id)}
    assert set(signed) == {"signature", "provenance"}
    told = department.audited("adapter.version.registered")[0].details
    key = department.runtime.signing_key.public
    assert (told["key_id"], told["provenance_digest"]) == (key.key_id, signed["provenance"].digest)
    department.runtime.objects.fetch(
        Key.blob(department.id, signed["provenance"].digest), tmp_path / "provenance", signed["provenance"].digest
    )
    statement = unseal((tmp_path / "provenance").read_bytes(), {key.key_id: key}, param="provenance").statement
    assert statement["subject"][0]["digest"] == {"sha256": version.digest.removeprefix("sha256:")}
    assert statement["predicate"]["buildDefinition"]["externalParameters"] == finished.spec
    # Every object is there under its digest: fetch_tree checks.
    manifest = Manifest.model_validate(version.manifest, strict=False)
    assert version.digest == manifest.digest
    department.runtime.objects.fetch_tree(manifest, department.id, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    (checkpoint,) = department.checkpoints(job)
    assert (checkpoint.step, checkpoint.metrics["step"]) == (2, 2)
    stored = Key.checkpoint(department.id, job, epoch=1, step=2, name="COMPLETE")
    complete = next(file for file in checkpoint.manifest["files"] if file["path"] == "COMPLETE")
    department.runtime.objects.fetch(stored, tmp_path / "COMPLETE", complete["digest"])
    metrics = [event for event in department.events(job) if event.type == "metrics"]
    assert [event.data["step"] for event in metrics if "train_loss" in event.data] == [1, 2, 3, 4]
    assert any("valid_mean_token_accuracy" in event.data for event in metrics)
    # Nothing of the department stays on the worker.
    runs = department.runtime.settings.work_dir / "runs"
    assert [path for path in runs.iterdir() if path.is_dir()] == []
