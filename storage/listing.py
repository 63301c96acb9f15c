"""What there is in the bucket, and how old it is by the store's own clock.

By a reader's clock an age would be wrong by what the two clocks differ.
"""

from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from storage.keys import Key

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ResponseMetadataTypeDef


@dataclass(frozen=True)
class StoredObject:
    """An object that is there."""

    key: Key
    size_bytes: int
    age_s: float


@dataclass(frozen=True)
class StoredPage:
    """Some of a department's objects, by key. `last` is where the next page begins; None: there is no next page."""

    objects: tuple[StoredObject, ...]
    last: str | None

    @classmethod
    def of(cls, reply: "ListObjectsV2OutputTypeDef") -> "StoredPage":
        """From S3's answer. What is stored under no key of ours is left out: it is not ours to judge."""
        now, contents = clock_of(reply["ResponseMetadata"]), reply.get("Contents", [])
        objects = tuple(
            StoredObject(key, item["Size"], (now - item["LastModified"]).total_seconds())
            for item in contents
            if (key := _key_or_none(item["Key"]))
        )
        return cls(objects, contents[-1]["Key"] if contents and reply["IsTruncated"] else None)


def clock_of(reply: "ResponseMetadataTypeDef") -> datetime:
    """The store's time when it answered."""
    return parsedate_to_datetime(reply["HTTPHeaders"]["date"])


def _key_or_none(path: str) -> Key | None:
    try:
        return Key(path)
    except ValueError:
        return None
