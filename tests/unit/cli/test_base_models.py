from pathlib import Path
from typing import Any, NoReturn

import httpx
import huggingface_hub
import pytest

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


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), OSError("no route")])
def test_a_hub_out_of_reach_is_one_line(
    tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    ended = tsugiki("base-models", "add", "base", "--from", "org/name")
    assert (ended.status, stub.asked) == (1, [])
    assert ended.err == "error: org/name could not be downloaded: is the hub within reach?\n"
