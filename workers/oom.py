"""The kernel's own count of processes that it killed for want of memory: it tells its SIGKILL from anybody else's.

The count is raised before the signal is sent, so whoever sees the end of a process sees it as well.
"""

import re
from collections.abc import Iterator
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = Path("/")) -> int:
    """How many there were in this process's control group, or on the machine where no group counts. Linux only."""
    for counter in _counters(root):
        try:
            found = _COUNT.search(counter.read_text())
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def _counters(root: Path) -> Iterator[Path]:
    groups = root / "proc/self/cgroup"
    mounted = root / "sys/fs/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            # Version 2. The root group has no such file.
            yield mounted / group.strip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield mounted / "memory" / group.strip("/") / "memory.oom_control"
    yield root / "proc/vmstat"
