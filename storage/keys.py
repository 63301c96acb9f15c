"""Where an object lives. A key is of a department, a base model or an export of the trail, or it cannot be built."""

import re
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from domain.digests import Digest

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = r"\w[\w.+-]*(/\w[\w.+-]*)*"
_PATH = re.compile(
    rf"departments/{_UUID}/(blobs/[0-9a-f]{{64}}|checkpoints/{_UUID}/[0-9]+/[0-9]+/{_NAME})|base_models/[0-9a-f]{{64}}"
    rf"|audit_exports/{_UUID}/[0-9a-f]{{64}}",
    re.ASCII,
)
# S3's own limit, in bytes of UTF-8; a key here is ASCII.
_MAX_PATH_CHARACTERS = 1024

BASE_MODELS = "base_models/"


class CheckpointPlace(NamedTuple):
    """Which checkpoint a file belongs to."""

    job: UUID
    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Key:
    """The path of one object. Every path is one of the four forms below; any other is a ValueError.

    A blob's key has its department in it, so that equal files of two departments are two objects: a shared one
    would tell a department what another has, and could not be erased for one of them alone.
    """

    path: str

    def __post_init__(self) -> None:
        if len(self.path) > _MAX_PATH_CHARACTERS or not _PATH.fullmatch(self.path):
            raise ValueError(f"not the path of an object: {self.path[:80]!r}")

    @classmethod
    def blob(cls, department: UUID, digest: Digest) -> "Key":
        """A department's file or a file of its adapters, named by its content."""
        return cls(f"{prefix_of(department)}blobs/{_hex(digest)}")

    @classmethod
    def checkpoint(cls, department: UUID, job: UUID, *, epoch: int, step: int, name: str) -> "Key":
        """One file of a checkpoint. `epoch` is the lease's fencing epoch: two workers never write the same key."""
        return cls(f"{prefix_of(department)}checkpoints/{job}/{epoch}/{step}/{name}")

    @classmethod
    def base_model(cls, digest: Digest) -> "Key":
        """A file of one of the platform's base models: the one kind of object that is no department's."""
        return cls(f"{BASE_MODELS}{_hex(digest)}")

    @classmethod
    def audit_export(cls, export: UUID, digest: Digest) -> "Key":
        """An export of the audit trail, which is all departments'."""
        return cls(f"audit_exports/{export}/{_hex(digest)}")

    @property
    def blob_digest(self) -> Digest | None:
        """The digest in a blob's key; None for other keys."""
        parts = self.path.split("/")
        return f"sha256:{parts[3]}" if parts[2:3] == ["blobs"] else None

    @property
    def checkpoint_place(self) -> CheckpointPlace | None:
        """The checkpoint that a file's key is of; None for other keys."""
        parts = self.path.split("/")
        if parts[2:3] != ["checkpoints"]:
            return None
        return CheckpointPlace(UUID(parts[3]), epoch=int(parts[4]), step=int(parts[5]))

    def __str__(self) -> str:
        return self.path


def prefix_of(department: UUID) -> str:
    """What the keys of all objects of a department begin with."""
    return f"departments/{department}/"


def _hex(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
