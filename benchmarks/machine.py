"""What it was measured on, and who else was at work."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from domain.frozen import Frozen

# As /proc/cpuinfo names them, the widest first; what oneDNN calls the ceiling that makes a machine one of that kind.
ISAS = {"amx_bf16": None, "avx512_bf16": "AVX512_CORE_BF16", "avx512f": "AVX512_CORE", "avx2": "AVX2"}

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "liger-kernel", "unsloth")


class Hardware(Frozen):
    """The processor, its widest instructions for matrix products, the threads, and the GPU where there is one."""

    cpu: str
    isa: str
    threads: int
    gpu: str | None = None

    @property
    def slug(self) -> str:
        """For names of files."""
        words = re.sub(r"\([^)]*\)|processor|cpu|@.*", " ", self.gpu or self.cpu, flags=re.IGNORECASE)
        name = "-".join(re.findall(r"[a-z0-9]+", words.lower()))
        return name if self.gpu else f"{name}-{self.isa}-{self.threads}-threads"

    @property
    def label(self) -> str:
        """For people."""
        return self.gpu or f"{self.cpu}, {self.isa}, {self.threads} threads"


class Load(Frozen):
    """One-minute load before and after; on average over the measurement, how many cores others used or were withheld.

    withheld_cores: what the hypervisor gave to other guests.
    """

    before: float
    after: float
    others_cores: float
    withheld_cores: float


def hardware(isa: str | None, gpu: str | None) -> Hardware:
    """This machine; `isa` says what its matrix products are held back to."""
    return Hardware(cpu=_cpu_name(), isa=isa or widest_isa(), threads=len(os.sched_getaffinity(0)), gpu=gpu)


def widest_isa() -> str:
    """Of those that make matrix products faster."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return next((isa for isa in ISAS if isa in flags), "baseline")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions() -> dict[str, str]:
    """Python and the packages that compete; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is measured, marked where files differ from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


class LoadWatch:
    """Compares the machine's busy time with that of the measured process, from its making on."""

    def __init__(self) -> None:
        self._before, self._times = os.getloadavg()[0], psutil.cpu_times()

    def over(self, wall_s: float, own_cpu_s: float) -> Load:
        """The measurement took so long, and so much processor time of its own."""
        now, then = psutil.cpu_times(), self._times
        busy = sum(getattr(now, kind) - getattr(then, kind) for kind in ("user", "nice", "system", "irq", "softirq"))
        return Load(
            before=self._before,
            after=os.getloadavg()[0],
            others_cores=max(0.0, busy - own_cpu_s) / wall_s,
            withheld_cores=max(0.0, now.steal - then.steal) / wall_s,
        )
