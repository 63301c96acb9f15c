from pathlib import Path

import pytest
from huggingface_hub import constants

from cli.base_models import accepted_files
from domain.digests import digest_of
from tests.unit.cli.conftest import Run, Stub


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


def test_a_hub_out_of_reach_is_one_line(tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on port 9; the transport's own error is what was not caught.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ended = tsugiki("base-models", "add", "base", "--from", "org/name")
    assert (ended.status, stub.asked) == (1, [])
    assert ended.err == "error: org/name could not be downloaded: is the hub within reach?\n"
