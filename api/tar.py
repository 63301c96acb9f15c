"""A tar made while it is sent: one chunk in memory, the same bytes for the same files."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from domain.digests import Digest

_BLOCK_BYTES = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True)
class TarMember:
    """A file to be sent."""

    path: str
    size_bytes: int
    digest: Digest


def tar_bytes(members: Sequence[TarMember]) -> int:
    """The size of the whole tar: told in advance, it shows the receiver a download that broke off."""
    headers = sum(len(_header(member, modified=0)) for member in members)
    return headers + sum(member.size_bytes + _padding(member) for member in members) + len(_END)


def stream_tar(
    members: Sequence[TarMember], *, modified: int, read: Callable[[Digest], Iterator[bytes]], done: Callable[[], None]
) -> Iterator[bytes]:
    """The tar in chunks. The first object is opened here, so that a missing one is an answer and not a broken download.

    `done` is called when the last chunk was taken.
    """
    first = read(members[0].digest) if members else iter(())
    return _chunks(members, first, modified=modified, read=read, done=done)


def _chunks(
    members: Sequence[TarMember],
    first: Iterator[bytes],
    *,
    modified: int,
    read: Callable[[Digest], Iterator[bytes]],
    done: Callable[[], None],
) -> Iterator[bytes]:
    for place, member in enumerate(members):
        yield _header(member, modified=modified)
        yield from first if place == 0 else read(member.digest)
        yield bytes(_padding(member))
    yield _END
    done()


def _header(member: TarMember, *, modified: int) -> bytes:
    entry = tarfile.TarInfo(member.path)
    entry.size, entry.mtime, entry.mode = member.size_bytes, modified, 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(member: TarMember) -> int:
    return -member.size_bytes % _BLOCK_BYTES
