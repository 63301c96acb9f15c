"""A bucket whose objects nobody can change or remove before their time, its owner's keys included (S3 Object Lock)."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from storage.errors import ObjectMissing, SealedKeyDiffers, StorageUnavailable
from storage.objects import CONFIG, checksum_of
from storage.translation import http_status, named_errors

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class LockedStore:
    """One bucket of small objects, each written once and kept for so many days. Building it does not connect."""

    def __init__(
        self, *, endpoint_url: str | None, bucket: str, access_key: str, secret_key: str, region: str, keep_days: float
    ) -> None:
        self._bucket, self._kept = bucket, timedelta(days=keep_days)
        self._client: S3Client = Session(botocore_session=get_session()).client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=CONFIG.merge(Config(s3={"addressing_style": "path" if endpoint_url else "auto"})),
        )

    def ensure_bucket(self) -> None:
        """Create the bucket with Object Lock unless it is there. Raises StorageUnavailable where it has none."""
        try:
            with named_errors(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            with named_errors(self._bucket):
                self._client.create_bucket(Bucket=self._bucket, ObjectLockEnabledForBucket=True)
        with named_errors(self._bucket):
            self._client.get_object_lock_configuration(Bucket=self._bucket)

    def put(self, name: str, content: bytes) -> None:
        """Write once. The same bytes again are a success. Raises SealedKeyDiffers where others have the name."""
        until = datetime.now(UTC) + self._kept
        try:
            with named_errors(name, let_through=(HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)):
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=content,
                    ChecksumSHA256=checksum_of("sha256:" + sha256(content).hexdigest()),
                    IfNoneMatch="*",
                    ObjectLockMode="COMPLIANCE",
                    ObjectLockRetainUntilDate=until,
                )
        except ClientError as error:
            if http_status(error) != HTTPStatus.PRECONDITION_FAILED:
                raise StorageUnavailable(f"{name} is being written by others") from error
            if self.read(name) != content:
                raise SealedKeyDiffers(f"{name} holds other bytes than those sent") from None

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with suppress(ObjectMissing), named_errors(name):
            self._client.head_object(Bucket=self._bucket, Key=name)
            return True
        return False

    def read(self, name: str) -> bytes:
        """The object's bytes. Raises ObjectMissing."""
        with named_errors(name):
            return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()
