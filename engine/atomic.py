"""Files that are there completely or not at all, also after the machine loses power."""

import os
from pathlib import Path

from pydantic import BaseModel


def write_json(path: Path, value: BaseModel) -> None:
    """Write a value as JSON under its final name in one step."""
    unfinished = _write_beside(path, value)
    unfinished.rename(path)
    sync(path.parent)


def write_json_once(path: Path, value: BaseModel) -> None:
    """As `write_json`, but a file that is there already stays as it is."""
    unfinished = _write_beside(path, value)
    try:
        # A hard link, unlike a rename, fails where the name is taken.
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, value: BaseModel) -> Path:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(value.model_dump_json(indent=1) + "\n")
    sync(unfinished)
    return unfinished
