"""Scratch folders of runs and imports: private, and removed also when their process was killed."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

LOCK = ".lock"


@contextmanager
def scratch_folder(work_dir: Path, name: str) -> Iterator[Path]:
    """An empty folder that only this user can enter; it is gone afterwards. Those of dead processes go first."""
    runs = work_dir / "runs"
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as held:
        with (runs / LOCK).open("w") as all_runs:
            fcntl.flock(all_runs, fcntl.LOCK_EX)
            _remove_abandoned(runs)
            folder = Path(mkdtemp(dir=runs, prefix=f"{name}-"))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            # Locked as long as this process lives; its children do not inherit it.
            fcntl.flock(held.enter_context((folder / LOCK).open("w")), fcntl.LOCK_EX)
        yield folder


def _remove_abandoned(runs: Path) -> None:
    for folder in filter(Path.is_dir, runs.iterdir()):
        with suppress(BlockingIOError), (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
