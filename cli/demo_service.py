"""The demonstration's own service: started as anyone starts it, stopped whatever happens."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.endpoint import Endpoint, read

# Says that a folder is a demonstration's, which the next one may begin anew.
MARKER = "this-is-a-demonstration"
START_WITHIN_S = 180
STOP_WITHIN_S = 40
POLL_S = 0.1
LOG_LINES = 25


class DemoFailed(Exception):  # noqa: N818 - named for the fact, as refusals are
    """The demonstration cannot go on, or did not show what it is to show. The message is for the person watching."""


@dataclass
class DemoService:
    """A running `tsugiki up`. `keep` leaves it running when the demonstration is over."""

    directory: Path
    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    keep: bool = field(default=False)


@contextmanager
def started(directory: Path) -> Iterator[DemoService]:
    """A service on an empty data directory, with one worker, on a free port. Ends it on the way out."""
    _begin_anew(directory)
    # Beside the interpreter: the virtual environment need not be active.
    command = [str(Path(sys.executable).with_name("tsugiki")), "up", "--dir", str(directory), "--port", "0"]
    log = directory / "up.log"
    with log.open("wb") as stream:
        # A session of its own: a Ctrl-C is for the demonstration, which then ends the service in order.
        process = subprocess.Popen(
            [*command, "--workers", "1"], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    service: DemoService | None = None
    try:
        service = DemoService(directory, process, _wait_for_endpoint(directory, process, log))
        yield service
    finally:
        if service is None or not service.keep:
            _stop(process)


def _begin_anew(directory: Path) -> None:
    """Empty the folder of an earlier demonstration; nobody else's is touched."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise DemoFailed(f"{directory} is not empty, and no earlier demonstration's. Choose another --dir.")
        _check_not_running(directory)
        shutil.rmtree(directory)
    # As `tsugiki up` makes it: others pass through, PostgreSQL's user among them, and see nothing.
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    (directory / MARKER).touch()


def _check_not_running(directory: Path) -> None:
    lock = directory / "lock"
    if not lock.exists():
        return
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = lock.read_text().strip()
        raise DemoFailed(f"An earlier demonstration still runs on {directory}. Stop it: kill {pid}") from None
    finally:
        os.close(descriptor)


def _wait_for_endpoint(directory: Path, process: subprocess.Popen[bytes], log: Path) -> Endpoint:
    file, deadline = directory / "endpoint.json", time.monotonic() + START_WITHIN_S
    while not file.exists():
        if process.poll() is not None:
            raise DemoFailed(f"`tsugiki up` ended with status {process.returncode}.\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"The service is not ready after {START_WITHIN_S} s.\n{_tail(log)}")
        time.sleep(POLL_S)
    return read(file)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        # Its children die with it.
        process.kill()
        process.wait()
