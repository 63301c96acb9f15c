import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from domain.digests import Manifest, ManifestFile
from domain.ids import IdKind, parse_id
from models_db.adapters import AdapterVersion
from runtime.wiring import Runtime
from storage.keys import Key
from tests.integration.api.conftest import ADAPTER_FILES, METRICS, Finished
from tests.integration.conftest import http, rows


@pytest.fixture(scope="module")
def finished(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("even")


@pytest.fixture(scope="module")
def trainer(finished: Finished) -> Iterator[httpx.Client]:
    with finished.department.http() as client:
        yield client


def test_a_finished_job_names_its_model_and_its_version(finished: Finished) -> None:
    client = finished.department.client()
    job = client.fine_tuning.jobs.retrieve(finished.job)
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", finished.model, 100)
    assert job.fine_tuned_model == f"ft:tiny:acme:even:{finished.job.removeprefix('ftjob-')}"
    assert job.adapter == {"name": "even", "version": 1, "id": finished.version}  # type: ignore[attr-defined]
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(finished.job)
    assert checkpoint.fine_tuned_model_checkpoint == f"{finished.model}:ckpt-step-1"
    assert checkpoint.metrics.train_loss == 1.5
    kept_until = job.finished_at + 30 * 24 * 3600
    assert (checkpoint.erased_at, checkpoint.expires_at) == (None, kept_until)  # type: ignore[attr-defined]
    events = list(client.fine_tuning.jobs.list_events(finished.job, limit=2))
    assert events[0].message == "The job has successfully completed."
    assert [event.data for event in events if event.type == "metrics"] == [METRICS]
    assert client.models.retrieve(finished.model).id == finished.model
    assert finished.model in {model.id for model in client.models.list()}


def test_the_client_deletes_a_fine_tuned_model(make_finished: Callable[[str], Finished]) -> None:
    finished = make_finished("gone")
    client = finished.department.client()
    deleted = client.models.delete(finished.model)
    assert (deleted.id, deleted.object, deleted.deleted) == (finished.model, "model", True)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(finished.model)
    with finished.department.http() as trainer:
        assert trainer.get("/adapters/gone/versions/1").status_code == 404
        assert trainer.get(f"/lineage/{finished.version}").is_success


def test_an_adapter_is_found_by_name_number_and_alias(finished: Finished, trainer: httpx.Client) -> None:
    adapter = trainer.get("/adapters/even").json()
    assert (adapter["latest"], adapter["aliases"]) == (1, {"latest": 1})
    assert [found["name"] for found in trainer.get("/adapters").json()["data"]] == ["even"]
    versions = trainer.get("/adapters/even/versions").json()
    by_number, by_alias = (trainer.get(f"/adapters/even/versions/{name}").json() for name in ("1", "latest"))
    assert versions["data"] == [by_number] == [by_alias]
    assert (by_number["job_id"], by_number["created_by"]) == (finished.job, finished.department.trainer.id)
    assert [file["path"] for file in by_number["files"]] == sorted(ADAPTER_FILES)
    assert by_number["evaluation"][0]["file_id"] == finished.file
    assert (by_number["evaluation"][0]["base"]["loss"], by_number["evaluation"][0]["adapter"]["loss"]) == (2.0, 1.0)
    assert by_number["metrics"]["validation_loss"] == 0.9
    for reference in ("2", "production", "01x", "99999999999999999999"):
        assert trainer.get(f"/adapters/even/versions/{reference}").status_code == 404


def test_a_pulled_version_is_the_folder_byte_for_byte_and_the_same_each_time(
    trainer: httpx.Client, unchanged: Callable[..., Any]
) -> None:
    with unchanged(adapter_version_downloaded=1, adapter_version_download_completed=1):
        pulled = trainer.get("/adapters/even/versions/latest/content")
    version = trainer.get("/adapters/even/versions/1").json()
    assert pulled.headers["content-type"] == "application/x-tar"
    assert pulled.headers["x-adapter-digest"] == version["digest"]
    assert int(pulled.headers["content-length"]) == len(pulled.content)
    members, files = unpacked(pulled.content)
    assert list(files) == [*sorted(ADAPTER_FILES), "provenance.intoto.jsonl", "model.sig", "approval.intoto.jsonl"]
    assert {name: files[name] for name in ADAPTER_FILES} == ADAPTER_FILES
    assert {(m.mode, m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0o644, 0, 0, "", version["created_at"])}
    # All but the statement of where it stands, which is of this moment.
    _, again = unpacked(trainer.get("/adapters/even/versions/1/content").content)
    assert again.keys() == files.keys()
    assert [name for name in files if again[name] != files[name]] == ["approval.intoto.jsonl"]


def unpacked(tar_bytes: bytes) -> tuple[list[tarfile.TarInfo], dict[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        members = tar.getmembers()
        return members, {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def test_an_inference_account_gets_approved_versions_only(finished: Finished) -> None:
    inference = finished.department.member("inference")
    with finished.department.http(inference) as client:
        refused = client.get("/adapters/even/versions/1/content")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("place", [0, 1], ids=["first file", "second file"])
def test_a_version_whose_bytes_are_gone_is_refused_marked_and_mended(
    make_finished: Callable[[str], Finished], runtime: Runtime, unchanged: Callable[..., Any], place: int
) -> None:
    finished = make_finished(f"gone-{place}")
    key, file = stored_file(finished, runtime, place)
    runtime.objects.erase(key)
    path = f"/adapters/{finished.adapter}/versions/1"
    with finished.department.http() as client:
        assert client.get(path).json()["damaged_at"] is None
        with unchanged(adapter_version_downloaded=1, adapter_version_damaged=1):
            refused = client.get(f"{path}/content")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "artifact_missing")
        assert refused.headers["x-should-retry"] == "false"
        since = client.get(path).json()["damaged_at"]
        assert since
        # Told once, refused as long as it lasts.
        with unchanged(adapter_version_downloaded=1):
            assert client.get(f"{path}/content").status_code == 409

        runtime.objects.put(key, io.BytesIO(ADAPTER_FILES[file.path]), file.digest, file.bytes)
        with unchanged(adapter_version_downloaded=1, adapter_version_download_completed=1, adapter_version_mended=1):
            assert client.get(f"{path}/content").is_success
        assert client.get(path).json()["damaged_at"] is None


def test_a_version_whose_bytes_are_changed_breaks_the_download_off(
    make_finished: Callable[[str], Finished], runtime: Runtime, unchanged: Callable[..., Any]
) -> None:
    finished = make_finished("changed")
    key, file = stored_file(finished, runtime, 1)
    content = ADAPTER_FILES[file.path]
    runtime.objects.erase(key)
    client = runtime.objects._client  # noqa: SLF001 - past our rules, as a broken disk would
    client.put_object(Bucket=runtime.settings.s3_bucket, Key=key.path, Body=content[:-1] + b"?")
    with finished.department.http() as http_client:
        with (
            unchanged(adapter_version_downloaded=1, adapter_version_damaged=1),
            pytest.raises(httpx.RemoteProtocolError),
        ):
            http_client.get("/adapters/changed/versions/1/content")
        assert http_client.get("/adapters/changed/versions/1").json()["damaged_at"]


def stored_file(finished: Finished, runtime: Runtime, place: int) -> tuple[Key, ManifestFile]:
    """Where one of a version's files lies."""
    department = parse_id(IdKind.DEPARTMENT, finished.department.id)
    with runtime.department(department) as session:
        version = session.get_one(AdapterVersion, parse_id(IdKind.ADAPTER_VERSION, finished.version))
    file = Manifest.model_validate(version.manifest, strict=False).files[place]
    return Key.blob(department, file.digest), file


def test_lineage_is_read_from_every_end(finished: Finished, trainer: httpx.Client) -> None:
    from_version = trainer.get(f"/lineage/{finished.version}").json()["edges"]
    assert {(edge["relation"], edge["object"], edge["object_name"]) for edge in from_version} >= {
        ("produced_by", finished.job, None),
        ("trained_on", finished.file, "rows.jsonl"),
        ("evaluated_on", finished.file, "rows.jsonl"),
    }
    base_model = next(edge for edge in from_version if edge["relation"] == "grafted_on")
    assert base_model["object_name"] == "tiny"
    for end in (finished.job, finished.file, "tiny", base_model["object"], finished.model):
        edges = trainer.get(f"/lineage/{end}").json()["edges"]
        assert (finished.version, "even@1") in {(edge["subject"], edge["subject_name"]) for edge in edges}
    from_job = trainer.get(f"/lineage/{finished.job}").json()["edges"]
    assert {edge["object"] for edge in from_job} >= {finished.job, finished.file, base_model["object"]}


def test_what_nothing_descends_from_yet_is_no_missing_thing(finished: Finished, trainer: httpx.Client) -> None:
    unused = finished.department.upload(rows(3, salt=99))
    assert trainer.get(f"/lineage/{unused}").raise_for_status().json()["edges"] == []


def test_a_deleted_file_keeps_its_lineage(make_finished: Callable[[str], Finished]) -> None:
    finished = make_finished("kept")
    finished.department.client().files.delete(finished.file)
    with finished.department.http() as client:
        assert client.get(f"/files/{finished.file}").status_code == 404
        edges = client.get(f"/lineage/{finished.file}").json()["edges"]
    assert {edge["relation"] for edge in edges} >= {"trained_on", "evaluated_on"}


def test_an_operator_reads_a_departments_adapters_but_does_not_pull_them(finished: Finished, operator_key: str) -> None:
    with http(finished.department.api_url, operator_key, openai_project=finished.department.id) as operator:
        assert operator.get("/adapters/even").is_success
        assert operator.get("/adapters/even/versions/1/content").status_code == 403
