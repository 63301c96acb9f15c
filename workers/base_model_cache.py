"""A node's base models, each in a folder named by its manifest's digest, verified once."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.digests import Manifest
from storage.keys import Key
from storage.objects import ObjectStore
from workers.patience import Patience

LOCK_POLL_S = 0.2
WEIGHTS = ".safetensors"
READ_ONLY = 0o444


def tokenizer_files(base_model: Manifest) -> Manifest:
    """What inspecting rows needs of a base model: everything but its weights."""
    return Manifest.of(file for file in base_model.files if not file.path.endswith(WEIGHTS))


def cached_folder(cache_dir: Path, base_model: Manifest, objects: ObjectStore, patience: Patience) -> Path:
    """The folder of these files, fetched if this node has not got them.

    It appears when every file is there and of its digest. Of several workers one fetches, the others wait.
    """
    models = cache_dir / "base_models"
    models.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = base_model.digest.removeprefix("sha256:")
    folder = models / name
    if folder.exists():
        return folder
    with _locked(models / f"{name}.lock", patience):
        if not folder.exists():
            _fetch(models / f"{name}.part", base_model, objects, patience)
            (models / f"{name}.part").rename(folder)
    return folder


@contextmanager
def _locked(path: Path, patience: Patience) -> Iterator[None]:
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                patience.pause(LOCK_POLL_S)
        yield


def _fetch(part: Path, base_model: Manifest, objects: ObjectStore, patience: Patience) -> None:
    # Of a worker that was killed while it held the lock.
    shutil.rmtree(part, ignore_errors=True)
    for file in base_model.files:
        path = part / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        patience.fetch(objects, Key.base_model(file.digest), path, file.digest)
        # Ranks of every department read them; none may change them by mistake.
        path.chmod(READ_ONLY)
