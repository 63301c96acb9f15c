"""Turning a GGUF file into an ordinary model folder, in a child: the engine is never imported, it brings torch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from cli.output import plain


class NotConverted(Exception):  # noqa: N818 - named for the fact, as refusals are
    """There is no folder: the message says why, in a line."""


def convert(gguf: str, out: Path) -> None:
    """Write the folder; left alone if it is there. Raises NotConverted."""
    if importlib.util.find_spec("torch") is None:
        raise NotConverted("Converting needs the extra `worker`: pip install 'tsugiki[worker]'.")
    command = ["-m", "engine", "convert", "--gguf", gguf, "--out", str(out)]
    ended = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, errors="replace")
    if ended.returncode:
        raise NotConverted(_reason(gguf, ended.stderr))


def _reason(gguf: str, said: str) -> str:
    """The engine's own last line; of a traceback nothing, for it is no answer to a user."""
    lines = said.strip().splitlines()
    if not lines or "Traceback (most recent call last):" in lines:
        return f"{gguf} could not be converted: it is damaged, or of a kind that transformers does not read."
    return plain(lines[-1])
