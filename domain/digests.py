"""Content digests: how files, adapters and base models are named by what is in them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field

from domain.frozen import Frozen

# "sha256:" and 64 hex digits, as OCI and in-toto write them.
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

CHUNK_BYTES = 1 << 20

# Of a file inside a tree: forward slashes, no part begins with a dot.
PATH_PATTERN = r"^\w[\w.+-]*(/\w[\w.+-]*)*$"


class ManifestFile(Frozen):
    """One file of a tree: its path inside it (forward slashes, no part begins with a dot), size and digest."""

    path: Annotated[str, Field(pattern=PATH_PATTERN, max_length=512)]
    bytes: Annotated[int, Field(ge=0)]
    digest: Digest


class Manifest(Frozen):
    """The files of a tree, ordered by path. Its own digest names the tree."""

    files: tuple[ManifestFile, ...]

    @classmethod
    def of(cls, files: Iterable[ManifestFile]) -> "Manifest":
        """Order the files by path, so that equal trees have equal manifests."""
        return cls(files=tuple(sorted(files, key=lambda file: file.path)))

    @property
    def digest(self) -> Digest:
        """sha256 over one line a file, `<hex digest>  <bytes>  <path>`, ordered by path."""
        lines = "".join(f"{f.digest.removeprefix('sha256:')}  {f.bytes}  {f.path}\n" for f in self.files)
        return digest_of(lines.encode())

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.bytes for file in self.files)


def digest_of(content: bytes) -> Digest:
    """The digest of bytes in memory."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_stream(stream: BinaryIO) -> tuple[Digest, int]:
    """Read a stream to its end; its digest and its size in bytes."""
    sha, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        sha.update(chunk)
        size += len(chunk)
    return "sha256:" + sha.hexdigest(), size


def digest_file(path: Path) -> tuple[Digest, int]:
    """The digest and the size of a file on disk, read in chunks."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def manifest_of_tree(root: Path) -> Manifest:
    """The manifest of every regular file below `root`, hidden ones left out; links are followed to their content."""
    files = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest, size = digest_file(path)
            files.append(ManifestFile(path=name.as_posix(), bytes=size, digest=digest))
    return Manifest.of(files)
