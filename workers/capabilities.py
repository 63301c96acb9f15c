"""What this worker can, found out without torch: device, memory, versions. What cannot be found out is left open."""

import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from domain.plans import Device
from domain.workers import WorkerFacts
from runtime.settings import Settings

# Whose versions an operator wants to see beside each other when some workers are new and some are not.
PACKAGES = ("tsugiki", "torch", "transformers", "peft")

PROCESSOR, MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")
# A container's limit: version 2 of the kernel's interface, then version 1. `max`, or a number beyond all memory: none.
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# NVIDIA's own tool, which its container toolkit brings along. A driver that does not answer must not keep a worker from
# its start.
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
QUERY_LIMIT_S = 20
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Card:
    """A graphics card that ranks may use."""

    name: str
    memory_bytes: int


def facts_of(settings: Settings, name: str) -> WorkerFacts:
    """The facts of a train worker with these settings on this machine."""
    cards = [] if settings.device is Device.CPU else find_cards()
    device = settings.device
    if device is Device.AUTO:
        device = Device.CUDA if cards else Device.CPU
    on_card = device is Device.CUDA
    return WorkerFacts(
        name=name,
        host=socket.gethostname(),
        device=device,
        device_name=(cards[0].name if cards else None) if on_card else _processor(),
        ranks=settings.ranks,
        threads_per_rank=settings.threads_per_rank,
        memory_bytes=min((card.memory_bytes for card in cards), default=None) if on_card else _machine_memory_bytes(),
        precision=settings.precision,
        quantisation=settings.quantisation,
        versions=_versions(),
    )


def find_cards() -> list[Card]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, as the driver lists them; none where there is no driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in {"", "-1"}:
        return []
    chosen = () if visible is None else (f"--id={visible}",)
    try:
        listed = subprocess.run([*QUERY, *chosen], capture_output=True, text=True, timeout=QUERY_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [card for line in listed.stdout.splitlines() if (card := _card(line)) is not None]


def _card(line: str) -> Card | None:
    name, _, mebibytes = line.rpartition(",")
    try:
        return Card(name.strip(), int(mebibytes) * MIB)
    except ValueError:
        return None


def _processor() -> str | None:
    lines = PROCESSOR.read_text().splitlines() if PROCESSOR.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _machine_memory_bytes() -> int | None:
    sizes = [size for size in (_installed_bytes(), *map(_limit_bytes, CGROUP_LIMITS)) if size is not None]
    return min(sizes, default=None)


def _installed_bytes() -> int | None:
    lines = MEMORY.read_text().splitlines() if MEMORY.is_file() else []
    total = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), None)
    return None if total is None else int(total) * KIB


def _limit_bytes(limit: Path) -> int | None:
    try:
        return int(limit.read_text())
    except (OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
