"""Where the kernel's count of its own kills is found."""

from pathlib import Path

import pytest

from workers.oom import oom_kills

HOST = "nr_free_pages 7\noom_kill 5\n"
# As Linux 6 shows them to the groups' members.
VERSION_2 = "low 0\nhigh 0\nmax 40\noom 3\noom_kill 3\noom_group_kill 0\n"
VERSION_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


@pytest.mark.parametrize(
    ("groups", "files", "kills"),
    [
        ("0::/service/train\n", {"sys/fs/cgroup/service/train/memory.events": VERSION_2}, 3),
        ("9:cpu:/a\n4:memory:/b\n0::/\n", {"sys/fs/cgroup/memory/b/memory.oom_control": VERSION_1}, 2),
        # A container that sees its own group as the root.
        ("0::/\n", {"sys/fs/cgroup/memory.events": VERSION_2}, 3),
        # Nobody counts for the group: a kernel before 4.13, or the root group.
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n"}, 5),
        ("0::/\n", {}, 5),
        ("0::/a:b\n", {"sys/fs/cgroup/a:b/memory.events": VERSION_2}, 3),
    ],
)
def test_the_count_of_the_own_group_comes_before_the_machines(
    tmp_path: Path, groups: str, files: dict[str, str], kills: int
) -> None:
    for name, content in {"proc/self/cgroup": groups, "proc/vmstat": HOST, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert oom_kills(tmp_path) == kills


def test_a_system_that_counts_nothing_has_none(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
