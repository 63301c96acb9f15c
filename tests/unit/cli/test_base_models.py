from pathlib import Path

import domain.base_models
from cli.base_models import ACCEPTED_SUFFIXES, accepted_files
from domain.digests import digest_of


def test_the_suffixes_are_the_domains() -> None:
    assert ACCEPTED_SUFFIXES == domain.base_models._SUFFIXES  # noqa: SLF001 - one list in two places


def test_weights_behind_a_link_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"weights")
    folder = tmp_path / "base"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "lock.json").write_text("{}")
    # As the hub's cache lays out a snapshot.
    (folder / "model.safetensors").symlink_to(blob)
    (file,) = accepted_files(folder).files
    assert (file.path, file.bytes, file.digest) == ("model.safetensors", 7, digest_of(b"weights"))
