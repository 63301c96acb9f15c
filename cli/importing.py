"""Bringing an adapter that was made elsewhere to the service."""

from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import IO

from cli.connection import Connection, JsonObject
from domain.peft_folders import CONFIG, check_complete, with_base_model

# What peft and hubs put beside an adapter, and no server reads.
LEFT_OUT = frozenset({"README.md"})


def send(connection: Connection, folder: Path, *, name: str, base_model: str | None) -> JsonObject:
    """Send a folder; the version that it became. Files are refused by the service, by their names before their bytes.

    base_model: what the configuration is to say in place of a hub id or a path. Raises Refused.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LEFT_OUT)
    check_complete([path.name for path in files])
    with ExitStack() as opened:

        def content(path: Path) -> IO[bytes]:
            if path.name == CONFIG and base_model is not None:
                return BytesIO(with_base_model(path.read_bytes(), base_model))
            return opened.enter_context(path.open("rb"))

        return connection.post_files("adapters", name, "imports", files=[(path.name, content(path)) for path in files])
