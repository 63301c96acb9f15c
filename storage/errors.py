"""What can go wrong with an object. Messages are ours: no library's text, no credentials."""

# ruff: noqa: N818 - an error is named for the fact

from typing import ClassVar


class StorageError(Exception):
    """The root of this package's errors. One message as the only argument, so that each can be pickled."""

    code: ClassVar[str] = "storage_error"


class StorageUnavailable(StorageError):
    """The store did not answer, broke off, or refused the credentials. Trying again later may help."""

    code = "storage_unavailable"


class ObjectMissing(StorageError):
    """There is no object under the key."""

    code = "object_missing"


class DigestMismatch(StorageError):
    """The bytes sent, or the bytes stored, are not those of the digest."""

    code = "digest_mismatch"


class SealedKeyDiffers(StorageError):
    """The key is taken by other bytes. A sealed key is written once: somebody should look at this."""

    code = "sealed_key_differs"
