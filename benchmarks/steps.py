"""The clock of a measured process: phases of steps on so many threads each, and what each step took."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reports import Report, Step


@dataclass(frozen=True)
class Phase:
    """So many steps on so many threads. The first step warms up and does not count."""

    threads: int
    steps: int


def parse_phases(text: str) -> list[Phase]:
    """`1:4,2:4` is four steps on one thread, then four on two."""
    return [Phase(int(threads), int(steps)) for threads, _, steps in (part.partition(":") for part in text.split(","))]


@dataclass
class StepClock:
    """Times a process's steps by phases. `synchronise` waits for the device, where there is one."""

    phases: list[Phase]
    set_threads: Callable[[int], None]
    synchronise: Callable[[], None] = lambda: None
    steps: list[Step] = field(default_factory=list)
    _start_s: float = 0.0
    _begun: tuple[float, float] = (0.0, 0.0)

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)

    def begin(self) -> None:
        """A step begins; where it is a phase's first, on that phase's threads."""
        if not self.steps:
            self._start_s = seconds_since_creation()
        phase, place = self._place()
        if place == 0:
            self.set_threads(phase.threads)
        self.synchronise()
        self._begun = time.perf_counter(), time.process_time()

    def end(self, *, tokens: int, computed_tokens: int, supervised_tokens: int) -> None:
        """The step is over."""
        self.synchronise()
        wall_s, cpu_s = time.perf_counter() - self._begun[0], time.process_time() - self._begun[1]
        phase, place = self._place()
        self.steps.append(
            Step(
                threads=phase.threads,
                warm_up=place == 0,
                wall_s=wall_s,
                cpu_s=cpu_s,
                tokens=tokens,
                computed_tokens=computed_tokens,
                supervised_tokens=supervised_tokens,
            )
        )

    def _place(self) -> tuple[Phase, int]:
        place = len(self.steps)
        for phase in self.phases:
            if place < phase.steps:
                return phase, place
            place -= phase.steps
        raise ValueError("more steps than the phases have")

    def report(self, peak_bytes: int) -> Report:
        """All of it."""
        return Report(self._start_s, peak_bytes, self.steps)


def seconds_since_creation() -> float:
    """How long ago the kernel made this process, to 10 ms: imports before main() are in it."""
    after_boot_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return uptime_s - after_boot_ticks / os.sysconf("SC_CLK_TCK")


def peak_resident_bytes() -> int:
    """The most this process has held in memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024
