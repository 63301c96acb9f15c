import io
import tarfile
from collections.abc import Iterator

import pytest

from api.tar import TarMember, stream_tar, tar_bytes
from domain.digests import digest_of

FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(1537),
    "deep/" + "x" * 180 + ".json": b"a name longer than a header has room for",
    "empty.txt": b"",
    "block.txt": bytes(512),
}
MEMBERS = [TarMember(path, len(content), digest_of(content)) for path, content in FILES.items()]


def read(digest: str) -> Iterator[bytes]:
    content = next(content for content in FILES.values() if digest_of(content) == digest)
    return (content[start : start + 100] for start in range(0, len(content), 100))


def test_the_stream_is_a_tar_of_the_files_and_as_long_as_promised() -> None:
    ended: list[bool] = []
    content = b"".join(stream_tar(MEMBERS, modified=1_700_000_000, read=read, done=lambda: ended.append(True)))
    assert len(content) == tar_bytes(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found == FILES
    assert ended == [True]


def test_the_same_files_give_the_same_bytes() -> None:
    first, second = (b"".join(stream_tar(MEMBERS, modified=1, read=read, done=lambda: None)) for _ in range(2))
    assert first == second


def test_a_missing_object_is_told_before_the_first_byte() -> None:
    def missing(_digest: str) -> Iterator[bytes]:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        stream_tar(MEMBERS, modified=1, read=missing, done=lambda: None)


def test_a_broken_off_download_is_not_done() -> None:
    ended: list[bool] = []
    chunks = stream_tar(MEMBERS, modified=1, read=read, done=lambda: ended.append(True))
    for _ in range(3):
        next(chunks)
    assert ended == []
