"""One measured process: started fresh, watched from outside, its whole tree's memory added up."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.machine import Load, LoadWatch

SAMPLE_S = 0.2
ROOT = Path(__file__).resolve().parent.parent


class MeasurementFailed(Exception):  # noqa: N818 - named for the fact
    """A measured process ended badly; the message has the end of what it wrote."""


@dataclass(frozen=True)
class Finished:
    """How a process went. peak_bytes adds up its tree, memory shared within it counted once."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    load: Load


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]


class Measured:
    """A process from its start to its end. As a context it is killed where nobody waited for it."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._watch, self._began = folder / "log", LoadWatch(), time.perf_counter()
        # A caller's own settings of these must not decide who is faster.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "ONEDNN_"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**inherited, **environment}, stdout=log, stderr=subprocess.STDOUT
            )
        self._peak_bytes = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def _sample(self) -> None:
        root = psutil.Process(self._process.pid)
        while not self._ended.wait(SAMPLE_S):
            held = 0
            with suppress(psutil.Error):
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.Error):
                        held += process.memory_full_info().pss
            self._peak_bytes = max(self._peak_bytes, held)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        # Not poll(), which would take the child's resource usage with it.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is None

    def cpu_s(self) -> float:
        """Processor seconds so far, without children."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def wait(self) -> Finished:
        """Wait for its end. Raises MeasurementFailed."""
        _, status, usage = os.wait4(self._process.pid, 0)
        wall_s = time.perf_counter() - self._began
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._stop_sampling()
        if self._process.returncode != 0:
            raise MeasurementFailed(self._log.read_text(errors="replace")[-2000:])
        cpu_s = usage.ru_utime + usage.ru_stime
        return Finished(wall_s, cpu_s, self._peak_bytes, self._watch.over(wall_s, cpu_s))

    def _stop_sampling(self) -> None:
        self._ended.set()
        self._sampler.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
            self._stop_sampling()
