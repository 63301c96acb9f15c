"""What boto3 raises, said in this package's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError

from storage.errors import DigestMismatch, ObjectMissing, StorageError, StorageUnavailable

_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "NoSuchKey": (ObjectMissing, "there is no object {subject}"),
    # A HEAD has no body, and so no code but its status.
    "404": (ObjectMissing, "there is no object {subject}"),
    "NoSuchBucket": (StorageUnavailable, "the object store has no bucket for {subject}"),
    "BadDigest": (DigestMismatch, "the bytes sent for {subject} are not those of the digest"),
    "IncompleteBody": (DigestMismatch, "fewer bytes were sent for {subject} than promised"),
}
_REFUSED = (StorageUnavailable, "the object store refused the credentials for {subject}")
_UNAVAILABLE = (StorageUnavailable, "the object store did not answer for {subject}")


@contextmanager
def named_errors(subject: str, *, let_through: tuple[HTTPStatus, ...] = ()) -> Iterator[None]:
    """Raise the library's errors as ours; a reply with a status of `let_through` comes out as it is."""
    try:
        yield
    except ClientError as error:
        if http_status(error) in let_through:
            raise
        kind, message = _said(error)
        raise kind(message.format(subject=subject)) from error
    except BotoCoreError as error:
        kind, message = _UNAVAILABLE
        raise kind(message.format(subject=subject)) from error


def http_status(error: ClientError) -> int:
    """The status of the reply that made the error."""
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _said(error: ClientError) -> tuple[type[StorageError], str]:
    if http_status(error) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _REFUSED
    return _BY_CODE.get(error.response["Error"]["Code"], _UNAVAILABLE)
