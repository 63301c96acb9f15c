import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run

TRACEBACK = "Traceback (most recent call last):\n  File …\nValueError: secret of a library\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a warning\nx.gguf is no GGUF file.\n", "error: x.gguf is no GGUF file.\n"),
        (
            TRACEBACK,
            "error: x.gguf could not be converted: it is damaged, or of a kind that transformers does not read.\n",
        ),
    ],
)
def test_the_engines_failure_is_one_line(bare: Run, monkeypatch: pytest.MonkeyPatch, said: str, shown: str) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    ended = bare("base-models", "convert-gguf", "folder", "--gguf", "x.gguf", "--json")
    assert (ended.status, ended.err) == (1, shown)


def test_a_file_that_is_no_gguf_is_one_line(bare: Run) -> None:
    Path("notgguf").write_text("rows")
    ended = bare("base-models", "convert-gguf", "folder", "--gguf", "notgguf", "--json")
    assert (ended.status, ended.err) == (1, "error: notgguf is no GGUF file.\n")
    assert not Path("folder").exists()
