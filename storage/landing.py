"""Files and folders that appear under their name only when they are whole and on disk.

They are readable by their owner only: they are a department's.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import IO


@contextmanager
def landing_file(destination: Path) -> Iterator[IO[bytes]]:
    """A file to write beside the destination; it takes the destination's name after the block, unless that raises."""
    with NamedTemporaryFile(dir=destination.parent, prefix=f".{destination.name[:64]}.", delete=False) as file:
        part = Path(file.name)
        try:
            yield file.file
            file.flush()
            os.fsync(file.fileno())
            part.rename(destination)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _sync_folder(destination.parent)


@contextmanager
def landing_folder(destination: Path) -> Iterator[Path]:
    """A new folder beside the destination; it takes the destination's name after the block, unless that raises."""
    if destination.exists():
        raise FileExistsError(f"{destination} exists")
    part = Path(mkdtemp(dir=destination.parent, prefix=f".{destination.name[:64]}."))
    try:
        yield part
        for folder in (part, *(path for path in part.rglob("*") if path.is_dir())):
            _sync_folder(folder)
        part.rename(destination)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync_folder(destination.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
