"""Object storage over S3: every write is sealed, every read is checked against its digest. The only importer of boto3.

boto3's transfer manager is not used: its `upload_file` cannot send `If-None-Match`.
"""

import hashlib
import io
from base64 import b64encode
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from boto3.session import Session
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from botocore.session import get_session

from domain.digests import CHUNK_BYTES, Digest, Manifest, manifest_of_tree
from storage.errors import DigestMismatch, ObjectMissing, SealedKeyDiffers, StorageUnavailable
from storage.keys import Key, prefix_of
from storage.landing import landing_file, landing_folder
from storage.listing import StoredPage, clock_of
from storage.translation import http_status, named_errors

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MAX_PRESIGNED_S = 300
# What S3 lets the clocks of signers differ from its own.
MAX_AHEAD_S = 15 * 60
# S3 allows 5 GiB in one request; a failed request is sent again from its start, so we stay well below.
SINGLE_PUT_BYTES = 1 << 30
# 10,000 parts are the limit: files of up to 640 GB.
PART_BYTES = 64 << 20
# Somebody else writes the same key at this moment (409): S3 asks for the whole upload again.
_PUT_ATTEMPTS = 3

# To connect, and to be answered.
_TIMEOUTS_S = (3, 60)

CONFIG = Config(
    # Four attempts with exponential waits; a store that is down is reported within about 15 s.
    retries={"mode": "standard", "total_max_attempts": 4},
    connect_timeout=_TIMEOUTS_S[0],
    read_timeout=_TIMEOUTS_S[1],
    max_pool_connections=32,
    signature_version="s3v4",
    # Each write brings its sha256 and each read is checked here; a CRC beside it would only cost.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


@dataclass(frozen=True)
class PresignedPut:
    """A URL that takes one PUT of exactly the promised bytes, and the headers that must come with it."""

    url: str
    headers: dict[str, str]


class ObjectStore:
    """One bucket. May be shared by threads, but not across a fork: build it in the process that uses it.

    Building it does not connect. All verbs raise StorageUnavailable when the store is down or refuses the credentials.
    """

    def __init__(
        self, *, endpoint_url: str | None, bucket: str, access_key: str, secret_key: str, region: str = "us-east-1"
    ) -> None:
        self._bucket = bucket
        # Stores other than AWS rarely have a host name for each bucket.
        addressing = Config(s3={"addressing_style": "path" if endpoint_url else "auto"})
        # A session of our own: boto3's default session must not be used by several threads.
        core = get_session()
        self._plain = URLLib3Session(
            verify=core.get_config_variable("ca_bundle") or True,
            timeout=_TIMEOUTS_S,  # type: ignore[arg-type]  # it takes a pair, as its own client hands it over
        )
        self._client: S3Client = Session(botocore_session=core).client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=CONFIG.merge(addressing),
        )

    def check(self) -> None:
        """Readiness: the store answers, takes the credentials and has the bucket."""
        try:
            with named_errors(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing as error:
            raise StorageUnavailable(f"the object store has no bucket {self._bucket}") from error

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there. For start-up, with credentials that may."""
        try:
            with named_errors(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            with named_errors(self._bucket):
                self._client.create_bucket(Bucket=self._bucket)

    def put(self, key: Key, source: Path | BinaryIO, digest: Digest, size_bytes: int) -> None:
        """Write the bytes under the key, once. The same bytes again are a success, also when two writers race.

        A stream is read from where it stands and must be seekable. Raises DigestMismatch if the bytes are not those of
        the digest (nothing is stored), SealedKeyDiffers if other bytes have the key.
        """
        if isinstance(source, Path):
            with source.open("rb") as stream:
                self._put(key, stream, digest, size_bytes)
        else:
            self._put(key, source, digest, size_bytes)

    def stream(self, key: Key, digest: Digest) -> Iterator[bytes]:
        """The object in chunks: an eighth verb, since a download through the API is audited and a presigned URL is not.

        Raises ObjectMissing here, before the first chunk. The last chunk is given out only when the digest of the whole
        is right; else DigestMismatch, so that a client with a content length sees a broken download.
        """
        with named_errors(key.path):
            body = self._client.get_object(Bucket=self._bucket, Key=key.path)["Body"]
        return _checked(key, body, digest)

    def fetch(self, key: Key, destination: Path, digest: Digest) -> None:
        """Write the object to a file that appears only when it is whole, of the digest, and on disk.

        An existing file is replaced. Raises ObjectMissing or DigestMismatch; the destination is then as before.
        """
        with landing_file(destination) as file:
            for chunk in self.stream(key, digest):
                file.write(chunk)

    def put_tree(self, department: UUID, folder: Path) -> Manifest:
        """Write every file of the folder as a blob of the department. The manifest finds them again."""
        manifest = manifest_of_tree(folder)
        for file in manifest.files:
            self.put(Key.blob(department, file.digest), folder / file.path, file.digest, file.bytes)
        return manifest

    def fetch_tree(self, manifest: Manifest, department: UUID, destination: Path) -> None:
        """Write the manifest's files below a new folder, which appears when all are there and right.

        Raises FileExistsError if the destination exists.
        """
        with landing_folder(destination) as folder:
            for file in manifest.files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                self.fetch(Key.blob(department, file.digest), path, file.digest)

    def presign_put(self, key: Key, digest: Digest, size_bytes: int, *, ttl_s: int = MAX_PRESIGNED_S) -> PresignedPut:
        """A URL for one upload. Digest, size and `If-None-Match: *` are signed: it stores these bytes once, or none.

        Whoever has the URL can use it until it expires: hand it to its user only.
        """
        checksum = checksum_of(digest)
        url = self._client.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._bucket,
                "Key": key.path,
                "ContentLength": size_bytes,
                "ChecksumSHA256": checksum,
                "IfNoneMatch": "*",
            },
            ExpiresIn=_ttl(ttl_s),
        )
        headers = {"Content-Length": str(size_bytes), "x-amz-checksum-sha256": checksum, "If-None-Match": "*"}
        return PresignedPut(url, headers)

    def presign_get(self, key: Key, *, ttl_s: int = MAX_PRESIGNED_S) -> str:
        """A URL that reads the object until it expires, by whoever has it. The reader checks the digest."""
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key.path}, ExpiresIn=_ttl(ttl_s)
        )

    def erase(self, key: Key) -> None:
        """Remove the object, its older versions too where the bucket keeps them. An absent object is a success."""
        with named_errors(key.path):
            reply = self._client.delete_object(Bucket=self._bucket, Key=key.path)
            if reply.get("VersionId"):
                self._erase_versions(key)

    def presign_erase(self, keys: Collection[Key], *, ttl_s: int) -> dict[Key, str]:
        """URLs that erase an object each, until they expire: the store keeps to that, not the process that has them.

        By the store's clock they expire within ttl_s + MAX_AHEAD_S from now: some stores take a signature of any future
        day, so its date is held against theirs. Raises StorageUnavailable when this machine's clock is further ahead.
        """
        urls = {
            key: self._client.generate_presigned_url(
                "delete_object", Params={"Bucket": self._bucket, "Key": key.path}, ExpiresIn=_ttl(ttl_s)
            )
            for key in keys
        }
        with named_errors(self._bucket):
            now = clock_of(self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"])
        if any((_signed_at(url) - now).total_seconds() > MAX_AHEAD_S for url in urls.values()):
            raise StorageUnavailable("this machine's clock is ahead of the object store's")
        return urls

    def erase_presigned(self, key: Key, url: str) -> bool:
        """Erase by such a URL, asked once; False when it came too late.

        Of a bucket's versions only past ones are removed: the newest may be somebody's who wrote the key again.
        """
        with named_errors(key.path):
            reply = self._plain.send(AWSRequest(method="DELETE", url=url).prepare())
            if reply.status_code == HTTPStatus.FORBIDDEN:
                return False
            if reply.status_code not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
                raise StorageUnavailable(f"the object store did not erase {key}")
            if "x-amz-version-id" in reply.headers:
                self._erase_versions(key, newest=False)
        return True

    def _erase_versions(self, key: Key, *, newest: bool = True) -> None:
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key.path)
        for page in pages:
            markers = page.get("DeleteMarkers", [])
            versions = [version for version in page.get("Versions", []) if newest or not version["IsLatest"]]
            # Markers last: without the newest of them an older version would be the object once more.
            for version in [*versions, *markers]:
                # The prefix also matches longer keys.
                if version["Key"] == key.path:
                    self._client.delete_object(Bucket=self._bucket, Key=key.path, VersionId=version["VersionId"])

    def size_of(self, key: Key) -> int:
        """How many bytes the object has. Raises ObjectMissing."""
        with named_errors(key.path):
            return self._client.head_object(Bucket=self._bucket, Key=key.path)["ContentLength"]

    def list_page(self, department: UUID, *, after: str = "", limit: int = 1000) -> StoredPage:
        """A department's objects whose keys come after that one, in the order of keys."""
        prefix = prefix_of(department)
        with named_errors(prefix):
            found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=limit)
        return StoredPage.of(found)

    def abort_uploads(self, prefix: str, *, older_than_s: float) -> int:
        """Give up uploads in parts that nobody finished: their parts are paid for and listed nowhere. How many."""
        with named_errors(prefix):
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
            now = clock_of(found["ResponseMetadata"])
            old = [
                upload for upload in found.get("Uploads", [])
                if (now - upload["Initiated"]).total_seconds() >= older_than_s
            ]  # fmt: skip
            for upload in old:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)

    def _put(self, key: Key, stream: BinaryIO, digest: Digest, size_bytes: int) -> None:
        start = stream.tell()
        if stream.seek(0, io.SEEK_END) - start != size_bytes:
            raise DigestMismatch(f"the bytes sent for {key} are not as many as promised")
        for _ in range(_PUT_ATTEMPTS):
            stream.seek(start)
            try:
                with named_errors(key.path, let_through=(HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)):
                    if size_bytes > SINGLE_PUT_BYTES:
                        self._put_parts(key, stream, digest, size_bytes)
                    else:
                        self._put_whole(key, stream, digest, size_bytes)
            except ClientError as error:
                if http_status(error) == HTTPStatus.PRECONDITION_FAILED:
                    # Gone again at this look, somebody erased it: the key is free once more.
                    with suppress(ObjectMissing):
                        return self._compare(key, digest, size_bytes)
            else:
                return None
        raise StorageUnavailable(f"{key} is being written by others")

    def _put_whole(self, key: Key, stream: BinaryIO, digest: Digest, size_bytes: int) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=key.path,
            Body=stream,
            ContentLength=size_bytes,
            ContentType="application/octet-stream",
            ChecksumSHA256=checksum_of(digest),
            IfNoneMatch="*",
        )

    def _put_parts(self, key: Key, stream: BinaryIO, digest: Digest, size_bytes: int) -> None:
        upload = self._client.create_multipart_upload(
            Bucket=self._bucket,
            Key=key.path,
            ContentType="application/octet-stream",
            ChecksumAlgorithm="SHA256",
        )["UploadId"]
        try:
            parts = self._upload_parts(key, upload, stream, (digest, size_bytes))
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key.path, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            # Parts of an unfinished upload are paid for and listed nowhere.
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key.path, UploadId=upload)
            raise

    def _upload_parts(
        self, key: Key, upload: str, stream: BinaryIO, promised: tuple[Digest, int]
    ) -> "list[CompletedPartTypeDef]":
        """Send the parts. S3 checks a sha256 a part but none of the whole, so the whole is hashed here on its way."""
        whole, sent_bytes = hashlib.sha256(), 0
        parts: list[CompletedPartTypeDef] = []
        while part := stream.read(PART_BYTES):
            whole.update(part)
            sent_bytes += len(part)
            checksum = b64encode(hashlib.sha256(part).digest()).decode()
            number = len(parts) + 1
            reply = self._client.upload_part(
                Bucket=self._bucket,
                Key=key.path,
                UploadId=upload,
                PartNumber=number,
                Body=part,
                ChecksumSHA256=checksum,
            )
            parts.append({"PartNumber": number, "ETag": reply["ETag"], "ChecksumSHA256": checksum})
        if ("sha256:" + whole.hexdigest(), sent_bytes) != promised:
            raise DigestMismatch(f"the bytes sent for {key} are not those of the digest")
        return parts

    def _compare(self, key: Key, digest: Digest, size_bytes: int) -> None:
        """The key is taken: fine if by the same bytes. An upload in parts has no sha256 of the whole; it is read."""
        with named_errors(key.path):
            stored = self._client.head_object(Bucket=self._bucket, Key=key.path, ChecksumMode="ENABLED")
        same = stored["ContentLength"] == size_bytes
        checksum = stored.get("ChecksumSHA256")
        if same and checksum and stored.get("ChecksumType") != "COMPOSITE" and "-" not in checksum:
            same = checksum == checksum_of(digest)
        elif same:
            same = self._reads_as(key, digest)
        if not same:
            raise SealedKeyDiffers(f"{key} holds other bytes than those sent")

    def _reads_as(self, key: Key, digest: Digest) -> bool:
        try:
            for _ in self.stream(key, digest):
                pass
        except DigestMismatch:
            return False
        return True


def _checked(key: Key, body: "StreamingBody", digest: Digest) -> Iterator[bytes]:
    """Pass the chunks on, one behind; the last only if the digest of all is right."""
    sha, held = hashlib.sha256(), b""
    with closing(body), named_errors(key.path):
        for chunk in body.iter_chunks(CHUNK_BYTES):
            sha.update(chunk)
            if held:
                yield held
            held = chunk
    if "sha256:" + sha.hexdigest() != digest:
        raise DigestMismatch(f"the bytes stored under {key} are not those of the digest")
    if held:
        yield held


def _signed_at(url: str) -> datetime:
    (date,) = parse_qs(urlsplit(url).query)["X-Amz-Date"]
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def checksum_of(digest: Digest) -> str:
    """The digest as S3 has it in a header."""
    return b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode()


def _ttl(ttl_s: int) -> int:
    if not 0 < ttl_s <= MAX_PRESIGNED_S:
        raise ValueError(f"a presigned URL lives 1 to {MAX_PRESIGNED_S} s, not {ttl_s}")
    return ttl_s
