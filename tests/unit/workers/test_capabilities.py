"""What a worker says of itself, on machines with and without graphics cards; the driver's tool is pretended."""

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from domain.plans import Device
from runtime.settings import Settings
from workers import capabilities
from workers.capabilities import facts_of

GIB = 1 << 30
TWO_CARDS = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA L4, 23034\n"


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A tool that lists these cards and notes what it was asked; without a call of this there is no tool."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def listed(lines: str) -> Path:
        asked, tool = tmp_path / "asked", tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho \"$@\" >> {asked}\nprintf '{lines}'\n")
        tool.chmod(0o755)
        return asked

    return listed


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A machine of 4 GiB whose container is limited to that many bytes."""

    def limited(limit: str) -> None:
        processor, memory, cgroup = (tmp_path / name for name in ("cpuinfo", "meminfo", "memory.max"))
        processor.write_text("processor\t: 0\nmodel name\t: A Processor\nmodel name\t: A Processor\n")
        memory.write_text(f"MemTotal:       {4 << 20} kB\nMemFree:  1 kB\n")
        cgroup.write_text(limit)
        monkeypatch.setattr(capabilities, "PROCESSOR", processor)
        monkeypatch.setattr(capabilities, "MEMORY", memory)
        monkeypatch.setattr(capabilities, "CGROUP_LIMITS", (cgroup, tmp_path / "no-such-file"))

    return limited


def on(settings: Settings, device: Device) -> tuple[Device, str | None, int | None]:
    facts = facts_of(settings.model_copy(update={"device": device}), "host:1")
    return facts.device, facts.device_name, facts.memory_bytes


@pytest.mark.parametrize(("limit", "memory_bytes"), [("max", 4 * GIB), (str(GIB), GIB), (str(1 << 62), 4 * GIB)])
def test_a_machines_memory_is_what_its_container_leaves(
    settings: Settings, machine: Callable[[str], None], limit: str, memory_bytes: int
) -> None:
    machine(limit)
    assert on(settings, Device.CPU) == (Device.CPU, "A Processor", memory_bytes)


def test_the_smallest_card_decides(settings: Settings, cards: Callable[[str], Path]) -> None:
    asked = cards(TWO_CARDS)
    assert on(settings, Device.AUTO) == (Device.CUDA, "NVIDIA H100 80GB HBM3", 23034 << 20)
    assert "--id" not in asked.read_text()


def test_cards_that_are_kept_from_the_ranks_do_not_count(
    settings: Settings, cards: Callable[[str], Path], machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = cards(TWO_CARDS)
    machine("max")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert on(settings, Device.AUTO)[0] is Device.CUDA
    assert "--id=1,3" in asked.read_text()
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert on(settings, Device.AUTO)[0] is Device.CPU


def test_a_driver_that_says_nothing_leaves_the_memory_open(settings: Settings, cards: Callable[[str], Path]) -> None:
    assert on(settings, Device.CUDA) == (Device.CUDA, None, None)
    cards("A card, [N/A]\n")
    assert on(settings, Device.CUDA) == (Device.CUDA, None, None)


def test_versions_are_told(settings: Settings) -> None:
    versions = facts_of(settings, "host:1").versions
    assert versions["python"] == platform.python_version()
    assert set(versions) >= {"tsugiki", "torch", "transformers", "peft"}
