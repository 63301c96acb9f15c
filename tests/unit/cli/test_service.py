"""What `tsugiki up` and its parts say before anything starts."""

import socket
from pathlib import Path

import pytest

from runtime import service
from tests.unit.cli.conftest import Run


def test_a_folders_name_is_never_taken_for_markup(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "up", lambda directory, *, announce, **_: announce(f"http://{directory.name}/v1"))
    ended = bare("up", "--dir", "a[/b]")
    assert ended.status == 0
    assert "Starting Tsugiki on a[/b] …" in ended.err


def test_a_busy_port_is_one_line(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def listen(_directory: Path, *, host: str, port: int, **_: object) -> None:
        socket.create_server((host, port))

    monkeypatch.setattr(service, "up", listen)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = bare("up", "--port", str(port))
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == f"Port {port} of 127.0.0.1 is in use: choose another with --port."


def test_a_file_in_place_of_the_folder_is_one_line(bare: Run) -> None:
    Path("afile").touch()
    ended = bare("up", "--dir", "afile")
    assert (ended.status, ended.err) == (1, "afile is not a folder.\n")


def test_settings_are_refused_in_our_words(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSUGIKI_DATABASE_URL", raising=False)
    monkeypatch.setenv("TSUGIKI_PORT", "many")
    ended = bare("api")
    assert ended.status == 1
    assert "Setting TSUGIKI_DATABASE_URL is missing.\n" in ended.err
    assert "Setting TSUGIKI_PORT has a value that it cannot have.\n" in ended.err
