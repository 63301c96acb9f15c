"""Bringing an adapter version onto this machine: the files of its manifest, each with its digest, and attestations."""

import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from domain.attestations import ATTESTATION_FILES, MAX_ATTESTATION_BYTES
from domain.digests import CHUNK_BYTES, Manifest, ManifestFile

# A tar's headers and padding, a file; long names take a few blocks more.
TAR_OVERHEAD_BYTES = 64 << 10


class AdapterDamaged(Exception):  # noqa: N818 - named for the fact, as refusals are
    """What arrived is not the version that was asked for. Nothing was written."""


class FolderInUse(Exception):  # noqa: N818
    """The folder to write holds something already."""


def manifest_of(version: Mapping[str, Any]) -> Manifest:
    """The files of a version object. Raises AdapterDamaged unless they are those that its digest names."""
    try:
        manifest = Manifest.model_validate({"files": version["files"]}, strict=False)
    except ValidationError:
        raise AdapterDamaged("The version lists a file that may not be in one.") from None
    if manifest.digest != version["digest"]:
        raise AdapterDamaged("The list of files is not the one that the version's digest names.")
    return manifest


def check_free(out: Path) -> None:
    """Raise FolderInUse unless `out` is missing or an empty folder, and PermissionError where it cannot be written."""
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise FolderInUse(f"{out} exists and is not an empty folder.")
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise FolderInUse(f"{parent} is not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


def receive(chunks: Iterator[bytes], manifest: Manifest, out: Path) -> None:
    """Unpack a tar of the manifest's files and attestations; `out` appears complete, its files verified, or not at all.

    Raises FolderInUse, or AdapterDamaged for a link, a device, a folder, a path outside the manifest, a file that
    stands twice or is missing, and for bytes of another size or digest.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _unpack(chunks, manifest, unfinished)
        unfinished.chmod(0o755)
        # Onto an empty folder this succeeds, onto a filled one the system refuses it.
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack(chunks: Iterator[bytes], manifest: Manifest, folder: Path) -> None:
    expected = {file.path: file for file in manifest.files}
    attestations = set(ATTESTATION_FILES) - expected.keys()
    beside_bytes = MAX_ATTESTATION_BYTES * len(attestations)
    max_bytes = manifest.total_bytes + beside_bytes + TAR_OVERHEAD_BYTES * (len(expected) + len(attestations) + 1)
    try:
        stream: Any = _ChunkReader(chunks, max_bytes=max_bytes)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.name in attestations and member.isreg() and member.size <= MAX_ATTESTATION_BYTES:
                    attestations.remove(member.name)
                    _write(tar.extractfile(member), folder / member.name, None)
                    continue
                file = expected.pop(member.name, None)
                if file is None or not member.isreg() or member.issparse() or member.size != file.bytes:
                    raise AdapterDamaged("The archive holds something that is no file of the version.")
                _write(tar.extractfile(member), folder / file.path, file)
    except (tarfile.TarError, EOFError):
        raise AdapterDamaged("What arrived is not a complete archive.") from None
    if expected:
        raise AdapterDamaged(f"The archive lacks {min(expected)}.")


def _write(content: IO[bytes] | None, path: Path, file: ManifestFile | None) -> None:
    """Write a file of the version; or one of its attestations, which its digest does not name: they are signed."""
    if content is None:
        raise AdapterDamaged(f"The archive holds no bytes of {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with path.open("xb") as out:
        while chunk := content.read(CHUNK_BYTES):
            sha256.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if file is not None and f"sha256:{sha256.hexdigest()}" != file.digest:
        raise AdapterDamaged(f"The bytes of {file.path} are not those of the version.")


class _ChunkReader:
    """An iterator of chunks as a stream, ended where more arrive than there can be."""

    def __init__(self, chunks: Iterator[bytes], *, max_bytes: int) -> None:
        self._chunks, self._left_bytes, self._buffer = chunks, max_bytes, b""

    def read(self, size: int = -1, /) -> bytes:
        """Raises AdapterDamaged beyond the limit."""
        while size < 0 or len(self._buffer) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise AdapterDamaged("More bytes arrive than the version has.")
            self._buffer += chunk
        taken, self._buffer = (self._buffer, b"") if size < 0 else (self._buffer[:size], self._buffer[size:])
        return taken
