"""What an engine process is given besides its plan."""

import os
from pathlib import Path

import pytest

from workers.engine_process import Launcher, Workspace

CACHES = {"TSUGIKI_KERNEL_CACHE", "TORCHINDUCTOR_CACHE_DIR"}


def environment(work_dir: Path | None, tmp_path: Path) -> dict[str, str]:
    workspace = Workspace(tmp_path / "job")
    return dict(Launcher(work_dir=work_dir).describe("train", workspace).env)


def test_compiled_code_is_kept_where_only_this_user_may_enter(tmp_path: Path) -> None:
    given = environment(tmp_path / "work", tmp_path)
    assert {name: Path(given[name]).parent for name in CACHES} == dict.fromkeys(CACHES, tmp_path / "work" / "compiled")
    assert (tmp_path / "work" / "compiled").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("flaw", ["others may enter", "a link", "a file", "another user's"])
def test_a_folder_that_others_could_have_filled_is_not_used(
    flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compiled"
    if flaw == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif flaw == "a file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o700)
    if flaw == "others may enter":
        folder.chmod(0o750)
    elif flaw == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert CACHES.isdisjoint(environment(tmp_path, tmp_path))


def test_nothing_of_the_workers_environment_is_passed_on_but_what_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TSUGIKI_DATABASE_URL", "secret")
    given = environment(tmp_path / "work", tmp_path)
    assert "secret" not in given.values()
    assert given["PATH"] == os.environ["PATH"]
