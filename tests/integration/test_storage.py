"""Object storage against the S3 server that the project itself starts."""

import io
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import boto3
import httpx
import pytest

from domain.digests import Digest, Manifest, digest_of
from runtime.embedded import EmbeddedServices, S3Access
from storage import objects
from storage.errors import DigestMismatch, ObjectMissing, SealedKeyDiffers, StorageUnavailable
from storage.keys import Key
from storage.objects import ObjectStore

CONTENT = b"one row\n" * 1000
DIGEST = digest_of(CONTENT)
OTHER = b"two row\n" * 1000


def _store(s3: S3Access, **changed: str) -> ObjectStore:
    access = {"bucket": s3.bucket, "access_key": s3.access_key, "secret_key": s3.secret_key} | changed
    return ObjectStore(endpoint_url=s3.endpoint_url, **access)


@pytest.fixture(scope="module")
def store(embedded: EmbeddedServices) -> ObjectStore:
    return _store(embedded.s3)


@pytest.fixture
def department() -> UUID:
    return uuid4()


@pytest.fixture
def overwrite(embedded: EmbeddedServices) -> Callable[[Key, bytes], None]:
    """Write past our rules, as a broken disk or a careless administrator would."""
    s3 = embedded.s3
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=s3.region,
    )
    return lambda key, content: client.put_object(Bucket=s3.bucket, Key=key.path, Body=content) and None


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Content of three parts, with files in parts from 1 MiB on. 5 MiB is the smallest part of S3."""
    monkeypatch.setattr(objects, "SINGLE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(objects, "PART_BYTES", 5 << 20)
    return os.urandom(11 << 20)


def _put(store: ObjectStore, key: Key, content: bytes, digest: Digest | None = None) -> None:
    store.put(key, io.BytesIO(content), digest or digest_of(content), len(content))


def test_a_file_comes_back_as_it_was_put(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(CONTENT)
    key = Key.blob(department, DIGEST)
    store.put(key, source, DIGEST, len(CONTENT))
    store.fetch(key, tmp_path / "again.jsonl", DIGEST)
    assert (tmp_path / "again.jsonl").read_bytes() == CONTENT
    assert b"".join(store.stream(key, DIGEST)) == CONTENT


def test_an_empty_file_comes_back(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    key = Key.blob(department, digest_of(b""))
    _put(store, key, b"")
    store.fetch(key, tmp_path / "empty", digest_of(b""))
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_stream_is_put_from_where_it_stands(store: ObjectStore, department: UUID) -> None:
    stream = io.BytesIO(b"header" + CONTENT)
    stream.seek(len(b"header"))
    store.put(Key.blob(department, DIGEST), stream, DIGEST, len(CONTENT))
    assert b"".join(store.stream(Key.blob(department, DIGEST), DIGEST)) == CONTENT


def test_bytes_that_are_not_of_the_digest_are_not_stored(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    key = Key.blob(department, DIGEST)
    with pytest.raises(DigestMismatch):
        _put(store, key, OTHER, DIGEST)
    with pytest.raises(ObjectMissing):
        store.fetch(key, tmp_path / "file", DIGEST)


@pytest.mark.parametrize("size_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_fewer_or_more_bytes_than_promised_are_not_stored(
    store: ObjectStore, department: UUID, size_bytes: int
) -> None:
    key = Key.blob(department, DIGEST)
    with pytest.raises(DigestMismatch):
        store.put(key, io.BytesIO(CONTENT), DIGEST, size_bytes)
    with pytest.raises(ObjectMissing):
        store.stream(key, DIGEST)


def test_parts_that_are_not_of_the_digest_are_not_stored(
    embedded: EmbeddedServices, store: ObjectStore, department: UUID, in_parts: bytes
) -> None:
    key = Key.blob(department, DIGEST)
    with pytest.raises(DigestMismatch):
        _put(store, key, in_parts, DIGEST)
    with pytest.raises(ObjectMissing):
        store.stream(key, DIGEST)
    client = store._client  # noqa: SLF001 - unfinished uploads are no verb of ours
    assert client.list_multipart_uploads(Bucket=embedded.s3.bucket).get("Uploads", []) == []


def test_a_fetch_of_corrupted_bytes_leaves_nothing_behind(
    store: ObjectStore, department: UUID, overwrite: Callable[[Key, bytes], None], tmp_path: Path
) -> None:
    key = Key.blob(department, DIGEST)
    overwrite(key, CONTENT[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        store.fetch(key, tmp_path / "file", DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_leaves_the_file_before_it(
    store: ObjectStore, department: UUID, overwrite: Callable[[Key, bytes], None], tmp_path: Path
) -> None:
    key = Key.blob(department, DIGEST)
    overwrite(key, OTHER)
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(DigestMismatch):
        store.fetch(key, tmp_path / "file", DIGEST)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_stream_of_corrupted_bytes_ends_before_its_last_chunk(
    store: ObjectStore, department: UUID, overwrite: Callable[[Key, bytes], None]
) -> None:
    content = os.urandom(3 << 20)
    key = Key.blob(department, digest_of(content))
    overwrite(key, content[:-1] + bytes([content[-1] ^ 1]))
    received: list[bytes] = []
    with pytest.raises(DigestMismatch):
        received.extend(store.stream(key, digest_of(content)))
    assert len(b"".join(received)) < len(content)


def test_the_same_bytes_may_be_put_twice(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    _put(store, key, CONTENT)


def test_the_same_parts_may_be_put_twice(store: ObjectStore, department: UUID, in_parts: bytes) -> None:
    key = Key.blob(department, digest_of(in_parts))
    _put(store, key, in_parts)
    _put(store, key, in_parts)
    assert b"".join(store.stream(key, digest_of(in_parts))) == in_parts


@pytest.mark.parametrize("other", [OTHER, OTHER[:-1]], ids=["as long", "shorter"])
def test_a_sealed_key_is_not_overwritten(store: ObjectStore, department: UUID, other: bytes) -> None:
    key = Key.checkpoint(department, uuid4(), epoch=1, step=200, name="adapter_model.safetensors")
    _put(store, key, CONTENT)
    with pytest.raises(SealedKeyDiffers):
        _put(store, key, other)
    assert b"".join(store.stream(key, DIGEST)) == CONTENT


def test_a_sealed_key_is_not_overwritten_by_parts(store: ObjectStore, department: UUID, in_parts: bytes) -> None:
    key = Key.checkpoint(department, uuid4(), epoch=1, step=200, name="optimiser.safetensors")
    _put(store, key, in_parts)
    with pytest.raises(SealedKeyDiffers):
        _put(store, key, in_parts[::-1])


def test_one_of_many_racing_writers_wins(store: ObjectStore, department: UUID) -> None:
    key = Key.checkpoint(department, uuid4(), epoch=1, step=1, name="state")
    outcomes: list[str] = []

    def write(content: bytes) -> None:
        try:
            _put(store, key, content)
            outcomes.append("stored")
        except SealedKeyDiffers:
            outcomes.append("refused")

    writers = [threading.Thread(target=write, args=(b"writer %d" % number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["stored"]


def test_a_missing_object_is_said_before_the_first_chunk(store: ObjectStore, department: UUID) -> None:
    with pytest.raises(ObjectMissing):
        store.stream(Key.blob(department, DIGEST), DIGEST)


def test_an_erased_object_is_gone_and_may_be_erased_again(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    store.erase(key)
    store.erase(key)
    with pytest.raises(ObjectMissing):
        store.stream(key, DIGEST)


def test_a_bucket_that_keeps_versions_keeps_none_of_an_erased_object(
    embedded: EmbeddedServices, department: UUID
) -> None:
    s3 = embedded.s3
    keeping = _store(s3, bucket=f"keeps-{department}")
    keeping.ensure_bucket()
    client = keeping._client  # noqa: SLF001 - versions are no verb of ours
    client.put_bucket_versioning(Bucket=f"keeps-{department}", VersioningConfiguration={"Status": "Enabled"})
    key = Key.blob(department, DIGEST)
    _put(keeping, key, CONTENT)
    keeping.erase(key)
    left = client.list_object_versions(Bucket=f"keeps-{department}")
    assert (left.get("Versions", []), left.get("DeleteMarkers", [])) == ([], [])


def test_an_erasing_that_was_signed_in_time_erases_and_may_be_sent_again(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    url = store.presign_erase([key], ttl_s=60)[key]
    assert store.erase_presigned(key, url)
    assert store.erase_presigned(key, url)
    with pytest.raises(ObjectMissing):
        store.size_of(key)


def test_an_erasing_that_comes_too_late_is_refused_by_the_store(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    erasing, reading = store.presign_erase([key], ttl_s=1)[key], store.presign_get(key, ttl_s=1)
    deadline = time.monotonic() + 10
    while httpx.get(reading).status_code != httpx.codes.FORBIDDEN:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not store.erase_presigned(key, erasing)
    assert store.size_of(key) == len(CONTENT)


@pytest.mark.parametrize("ahead", [timedelta(minutes=14), timedelta(minutes=16), timedelta(hours=1)])
def test_no_erasing_is_signed_for_a_far_future(
    store: ObjectStore, department: UUID, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    key = Key.blob(department, DIGEST)
    sign = store._client.generate_presigned_url  # noqa: SLF001 - the clock is wrong while it signs, and right again after

    def sign_ahead(*arguments: Any, **options: Any) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("botocore.auth.get_current_datetime", lambda: datetime.now(UTC).replace(tzinfo=None) + ahead)
            return sign(*arguments, **options)

    monkeypatch.setattr(store._client, "generate_presigned_url", sign_ahead)  # noqa: SLF001
    if ahead < timedelta(minutes=15):
        assert store.erase_presigned(key, store.presign_erase([key], ttl_s=60)[key])
        return
    with pytest.raises(StorageUnavailable, match="clock is ahead"):
        store.presign_erase([key], ttl_s=60)


def test_an_erasing_is_of_one_object(store: ObjectStore, department: UUID) -> None:
    key, other = Key.blob(department, DIGEST), Key.blob(uuid4(), DIGEST)
    _put(store, other, CONTENT)
    url = store.presign_erase([key], ttl_s=60)[key]
    assert not store.erase_presigned(other, url.replace(key.path, other.path))
    assert store.size_of(other) == len(CONTENT)


def test_a_signed_erasing_leaves_what_was_written_after_it(embedded: EmbeddedServices, department: UUID) -> None:
    bucket = f"keeps-{department}"
    keeping = _store(embedded.s3, bucket=bucket)
    keeping.ensure_bucket()
    client = keeping._client  # noqa: SLF001 - versions are no verb of ours
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    key = Key.blob(department, DIGEST)
    _put(keeping, key, CONTENT)
    assert keeping.erase_presigned(key, keeping.presign_erase([key], ttl_s=60)[key])
    left = client.list_object_versions(Bucket=bucket)
    assert (left.get("Versions", []), left.get("DeleteMarkers", [])) == ([], [])
    _put(keeping, key, CONTENT)
    keeping._erase_versions(key, newest=False)  # noqa: SLF001 - as if the erasing above had been stopped before this
    assert keeping.size_of(key) == len(CONTENT)


def test_a_departments_objects_are_listed_a_page_at_a_time(
    store: ObjectStore, department: UUID, overwrite: Callable[[Key, bytes], None]
) -> None:
    keys = sorted(
        [Key.checkpoint(department, uuid4(), epoch=1, step=step, name="deep/state") for step in range(3)]
        + [Key.blob(department, digest_of(bytes([number]))) for number in range(4)],
        key=str,
    )
    for key in keys:
        overwrite(key, CONTENT)
    _put(store, Key.blob(uuid4(), DIGEST), CONTENT)
    found, after, pages = [], "", 0
    while True:
        page = store.list_page(department, after=after, limit=2)
        found += page.objects
        pages += 1
        if page.last is None:
            break
        after = page.last
    assert [stored.key for stored in found] == keys
    assert pages == 4
    assert {stored.size_bytes for stored in found} == {len(CONTENT)}
    assert all(0 <= stored.age_s < 60 for stored in found)


def test_what_has_no_key_of_ours_is_not_listed(
    store: ObjectStore, department: UUID, embedded: EmbeddedServices
) -> None:
    client = store._client  # noqa: SLF001 - no verb of ours writes such a key
    client.put_object(Bucket=embedded.s3.bucket, Key=f"departments/{department}/notes.txt", Body=b"somebody's")
    assert store.list_page(department).objects == ()


def test_uploads_in_parts_that_nobody_finished_are_given_up_in_time(
    embedded: EmbeddedServices, store: ObjectStore, department: UUID
) -> None:
    client = store._client  # noqa: SLF001 - of a writer that was killed, and unfinished uploads are no verb of ours
    bucket, key, other = embedded.s3.bucket, Key.blob(department, DIGEST).path, Key.blob(uuid4(), DIGEST).path
    for unfinished in (key, other):
        upload = client.create_multipart_upload(Bucket=bucket, Key=unfinished)["UploadId"]
        client.upload_part(Bucket=bucket, Key=unfinished, UploadId=upload, PartNumber=1, Body=bytes(5 << 20))

    def left() -> set[str]:
        return {upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}

    # What is not complete is not to be seen.
    assert store.list_page(department).objects == ()
    assert store.abort_uploads(f"departments/{department}/", older_than_s=3600) == 0
    assert left() >= {key, other}
    assert store.abort_uploads(f"departments/{department}/", older_than_s=0) == 1
    assert (key in left(), other in left()) == (False, True)
    assert store.abort_uploads(other, older_than_s=0) == 1


def test_a_put_that_is_cut_in_its_body_leaves_nothing_to_be_seen(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    signed = store.presign_put(key, DIGEST, len(CONTENT))
    target = urlsplit(signed.url)
    head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": target.netloc} | signed.headers).items())
    with socket.create_connection((target.hostname, target.port)) as connection:
        connection.sendall(f"PUT {target.path}?{target.query} HTTP/1.1\r\n{head}\r\n".encode() + CONTENT[:4000])
        connection.shutdown(socket.SHUT_WR)
        # It has given up when it answers, or closes.
        connection.settimeout(30)
        while connection.recv(4096):
            pass
    assert store.list_page(department).objects == ()
    _put(store, key, CONTENT)
    assert b"".join(store.stream(key, DIGEST)) == CONTENT


def test_keys_tell_what_they_are_of(department: UUID) -> None:
    job = uuid4()
    blob, file = (
        Key.blob(department, DIGEST),
        Key.checkpoint(department, job, epoch=3, step=20, name="deep/blobs/state"),
    )
    assert (blob.blob_digest, blob.checkpoint_place) == (DIGEST, None)
    assert (file.blob_digest, file.checkpoint_place) == (None, (job, 3, 20))
    assert (Key.base_model(DIGEST).blob_digest, Key.base_model(DIGEST).checkpoint_place) == (None, None)


def test_a_tree_comes_back(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    tree = tmp_path / "adapter"
    (tree / "deep").mkdir(parents=True)
    (tree / "adapter_config.json").write_bytes(b"{}")
    (tree / "deep" / "weights").write_bytes(CONTENT)
    (tree / "deep" / "same").write_bytes(CONTENT)
    manifest = store.put_tree(department, tree)
    assert [file.path for file in manifest.files] == ["adapter_config.json", "deep/same", "deep/weights"]

    store.fetch_tree(manifest, department, tmp_path / "again")
    assert (tmp_path / "again" / "adapter_config.json").read_bytes() == b"{}"
    assert (tmp_path / "again" / "deep" / "weights").read_bytes() == CONTENT
    with pytest.raises(FileExistsError):
        store.fetch_tree(manifest, department, tmp_path / "again")


def test_a_tree_with_a_missing_file_does_not_appear(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    tree = tmp_path / "adapter"
    tree.mkdir()
    (tree / "a").write_bytes(CONTENT)
    (tree / "b").write_bytes(OTHER)
    manifest = store.put_tree(department, tree)
    store.erase(Key.blob(department, digest_of(OTHER)))
    with pytest.raises(ObjectMissing):
        store.fetch_tree(manifest, department, tmp_path / "again")
    assert list(tmp_path.iterdir()) == [tree]


def test_a_tree_is_not_found_through_another_department(store: ObjectStore, department: UUID, tmp_path: Path) -> None:
    tree = tmp_path / "adapter"
    tree.mkdir()
    (tree / "a").write_bytes(CONTENT)
    manifest: Manifest = store.put_tree(department, tree)
    with pytest.raises(ObjectMissing):
        store.fetch_tree(manifest, uuid4(), tmp_path / "again")


def test_a_presigned_get_reads_one_object(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    url = store.presign_get(key, ttl_s=120)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["120"]
    assert httpx.get(url).content == CONTENT
    elsewhere = url.replace(str(department), str(uuid4()))
    assert httpx.get(elsewhere).status_code == httpx.codes.FORBIDDEN


def test_a_presigned_get_expires(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    _put(store, key, CONTENT)
    url = store.presign_get(key, ttl_s=1)
    deadline = time.monotonic() + 10
    while httpx.get(url).status_code != httpx.codes.FORBIDDEN:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("ttl_s", [0, -1, 301, 604800])
def test_no_url_is_signed_for_longer_than_five_minutes(store: ObjectStore, department: UUID, ttl_s: int) -> None:
    with pytest.raises(ValueError, match="300"):
        store.presign_get(Key.blob(department, DIGEST), ttl_s=ttl_s)
    with pytest.raises(ValueError, match="300"):
        store.presign_put(Key.blob(department, DIGEST), DIGEST, 1, ttl_s=ttl_s)


def test_a_presigned_put_takes_the_promised_bytes_once(store: ObjectStore, department: UUID) -> None:
    key = Key.blob(department, DIGEST)
    signed = store.presign_put(key, DIGEST, len(CONTENT))

    def send(content: bytes, headers: dict[str, str]) -> int:
        return httpx.put(signed.url, content=content, headers=headers).status_code

    assert send(OTHER, signed.headers) == httpx.codes.BAD_REQUEST
    without_condition = {name: value for name, value in signed.headers.items() if name != "If-None-Match"}
    assert send(CONTENT, without_condition) == httpx.codes.FORBIDDEN
    assert send(CONTENT, signed.headers) == httpx.codes.OK
    assert send(CONTENT, signed.headers) == httpx.codes.PRECONDITION_FAILED
    assert b"".join(store.stream(key, DIGEST)) == CONTENT


def test_keys_of_two_departments_never_meet() -> None:
    one, two, job = uuid4(), uuid4(), uuid4()
    of_one = {Key.blob(one, DIGEST), Key.checkpoint(one, job, epoch=1, step=2, name="state")}
    of_two = {Key.blob(two, DIGEST), Key.checkpoint(two, job, epoch=1, step=2, name="state")}
    assert not of_one & of_two
    assert all(key.path.startswith(f"departments/{one}/") for key in of_one)
    assert Key.base_model(DIGEST).path == f"base_models/{DIGEST.removeprefix('sha256:')}"


@pytest.mark.parametrize(
    "name", ["../state", "a/../b", "/state", ".hidden", "a//b", "", "a b", "a\n", "é", "a" * 1024, "%2e%2e/state"]
)
def test_a_name_that_leaves_its_checkpoint_makes_no_key(name: str) -> None:
    with pytest.raises(ValueError, match="not the path of an object"):
        Key.checkpoint(uuid4(), uuid4(), epoch=1, step=2, name=name)


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 63, "sha256:../" + "0" * 61, "sha256:" + "A" * 64, ""])
def test_what_is_no_digest_makes_no_key(digest: str) -> None:
    with pytest.raises(ValueError, match="not the path of an object"):
        Key.blob(uuid4(), digest)


@pytest.mark.parametrize("path", ["blobs/" + "0" * 64, "departments//blobs/" + "0" * 64, "anything"])
def test_no_key_is_built_without_a_department(path: str) -> None:
    with pytest.raises(ValueError, match="not the path of an object"):
        Key(path)


def test_a_wrong_secret_is_refused(embedded: EmbeddedServices, department: UUID) -> None:
    stranger = _store(embedded.s3, secret_key="wrong")
    for attempt in (stranger.check, lambda: stranger.stream(Key.blob(department, DIGEST), DIGEST)):
        with pytest.raises(StorageUnavailable, match="refused the credentials"):
            attempt()


def test_readiness_tells_a_missing_bucket(embedded: EmbeddedServices, store: ObjectStore) -> None:
    store.check()
    with pytest.raises(StorageUnavailable, match="no bucket"):
        _store(embedded.s3, bucket="nowhere").check()


def test_a_server_that_is_down_is_reported_soon(embedded: EmbeddedServices, department: UUID, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        s3 = embedded.s3
        down = ObjectStore(
            endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}",
            bucket=s3.bucket,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
        )
        started = time.monotonic()
        with pytest.raises(StorageUnavailable) as caught:
            down.fetch(Key.blob(department, DIGEST), tmp_path / "file", DIGEST)
    assert time.monotonic() - started < 15
    assert list(tmp_path.iterdir()) == []
    assert "botocore" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own bytes


def test_an_answer_that_breaks_off_is_reported(department: UUID, tmp_path: Path) -> None:
    def answer_half(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n" + CONTENT[:4000])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_half, args=(listener,))
        server.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        store = ObjectStore(endpoint_url=endpoint, bucket="bucket", access_key="key", secret_key="secret")
        with pytest.raises(StorageUnavailable):
            store.fetch(Key.blob(department, DIGEST), tmp_path / "file", DIGEST)
        server.join()
    assert list(tmp_path.iterdir()) == []
