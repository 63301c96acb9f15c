import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.pull import AdapterDamaged, FolderInUse, manifest_of, receive
from domain.attestations import ATTESTATION_FILES
from domain.digests import Manifest, ManifestFile, digest_of

FILES = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": bytes(range(256)) * 512}
MANIFEST = Manifest.of(
    ManifestFile(path=path, bytes=len(content), digest=digest_of(content)) for path, content in FILES.items()
)


def chunks(tar: bytes, size: int = 1000) -> Iterator[bytes]:
    return (tar[start : start + size] for start in range(0, len(tar), size))


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def regular(path: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    return member, content


def special(path: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, target
    return member, b""


GOOD = [regular(path, content) for path, content in FILES.items()]


def test_a_whole_version_arrives(tmp_path: Path) -> None:
    receive(chunks(tar_of(*GOOD)), MANIFEST, tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_signs_a_version_comes_with_it_and_is_none_of_its_files(tmp_path: Path) -> None:
    beside = [regular(name, b"signed") for name in ATTESTATION_FILES]
    receive(chunks(tar_of(*GOOD, *beside)), MANIFEST, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {*FILES, *ATTESTATION_FILES}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    receive(chunks(tar_of(*GOOD)), MANIFEST, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([*GOOD, regular("../escaped", b"x")], id="a path that leaves the folder"),
        pytest.param([*GOOD, regular("/etc/escaped", b"x")], id="an absolute path"),
        pytest.param([*GOOD, regular("payload.py", b"x")], id="a file too many"),
        pytest.param([*GOOD, GOOD[0]], id="a file twice"),
        pytest.param([*GOOD, *[regular("model.sig", b"x")] * 2], id="a signature twice"),
        pytest.param([*GOOD, regular("model.sig", bytes((256 << 10) + 1))], id="a signature too large"),
        pytest.param([*GOOD, special("model.sig", tarfile.SYMTYPE, "/etc/passwd")], id="a link for a signature"),
        pytest.param([GOOD[0]], id="a file missing"),
        pytest.param([GOOD[0], special(GOOD[1][0].name, tarfile.SYMTYPE, "/etc/passwd")], id="a symbolic link"),
        pytest.param([GOOD[0], special(GOOD[1][0].name, tarfile.LNKTYPE, GOOD[0][0].name)], id="a hard link"),
        pytest.param([GOOD[0], special(GOOD[1][0].name, tarfile.DIRTYPE)], id="a folder in a file's place"),
        pytest.param([GOOD[0], special(GOOD[1][0].name, tarfile.FIFOTYPE)], id="a pipe"),
        pytest.param([GOOD[0], special(GOOD[1][0].name, tarfile.CHRTYPE)], id="a device"),
        pytest.param([regular(GOOD[0][0].name, b'{"r": 9}'), GOOD[1]], id="other bytes"),
        pytest.param([regular(GOOD[0][0].name, b'{"r": 16}'), GOOD[1]], id="another size"),
    ],
)
def test_nothing_is_written_for(members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path) -> None:
    with pytest.raises(AdapterDamaged):
        receive(chunks(tar_of(*members)), MANIFEST, tmp_path / "inside" / "adapter")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda tar: tar[:-90_000], id="cut off"),
        pytest.param(lambda _: b"<html>no tar</html>" * 100, id="no archive at all"),
        pytest.param(lambda _: b"", id="nothing"),
        # tarfile would read an extended header of any size into memory.
        pytest.param(lambda tar: huge_header() + tar, id="a header that never ends"),
    ],
)
def test_a_stream_that_is_no_whole_archive_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    with pytest.raises(AdapterDamaged):
        receive(chunks(damage(tar_of(*GOOD))), MANIFEST, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def huge_header() -> bytes:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 4 << 20
    return header.tobuf() + bytes(4 << 20)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FolderInUse):
        receive(chunks(tar_of(*GOOD)), MANIFEST, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderInUse):
        receive(chunks(tar_of(*GOOD)), MANIFEST, tmp_path / "out")


def test_the_list_of_files_must_be_the_one_the_digest_names() -> None:
    files = [file.model_dump() for file in MANIFEST.files]
    assert manifest_of({"files": files, "digest": MANIFEST.digest}) == MANIFEST
    with pytest.raises(AdapterDamaged):
        manifest_of({"files": files[:1], "digest": MANIFEST.digest})
    with pytest.raises(AdapterDamaged):
        manifest_of({"files": [files[0] | {"path": "../x"}, files[1]], "digest": MANIFEST.digest})
