from contextlib import suppress
from pathlib import Path

from runtime.scratch import scratch_folder


def test_a_scratch_folder_is_private_and_gone_after_an_error(tmp_path: Path) -> None:
    with suppress(RunBroken), scratch_folder(tmp_path, "job") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "rows.jsonl").touch()
        raise RunBroken
    assert not folder.exists()


class RunBroken(Exception):  # noqa: N818 - named for the fact
    pass


def test_the_folders_of_dead_workers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    abandoned = tmp_path / "runs" / "abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "rows.jsonl").touch()
    with scratch_folder(tmp_path, "first") as first:
        assert not abandoned.exists()
        with scratch_folder(tmp_path, "second"):
            assert first.exists()
