import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain.plans import TrainPlan
from tests.tiny_engine import tiny_rows, write_rows, write_tiny_base_model

Launch = Callable[[TrainPlan, str], subprocess.Popen[str]]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_base_model(folder / "base_model")
    # 9 rows in batches of 4: every third batch has one row, and the second rank none.
    write_rows(folder / "run" / "train.jsonl", tiny_rows(9))
    write_rows(folder / "run" / "validation.jsonl", tiny_rows(5))
    return folder


def command(plan: TrainPlan, inputs: Path, out: Path, *torchrun: str) -> list[str]:
    """`train` under torchrun, as the supervisor starts it."""
    out.mkdir(exist_ok=True)
    path = out.with_suffix(".json")
    path.write_text(plan.model_dump_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", *torchrun, "--max-restarts=0"]
    return [*launcher, "-m", "engine", "train", "--plan", str(path), "--inputs", str(inputs), "--out", str(out)]


@pytest.fixture
def launch(inputs: Path, tmp_path: Path) -> Launch:
    """Start all ranks; out/ is a folder of the given name below tmp_path."""

    def start(plan: TrainPlan, name: str) -> subprocess.Popen[str]:
        torchrun = ["--standalone", f"--nproc-per-node={plan.compute.world_size}"]
        arguments = command(plan, inputs, tmp_path / name, *torchrun)
        return subprocess.Popen(arguments, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def launch_on_two_hosts(inputs: Path, tmp_path: Path) -> Iterator[Launch]:
    """Start one rank under each of two torchruns that know of each other by an address alone; the first is returned."""
    started: list[subprocess.Popen[str]] = []

    def start(plan: TrainPlan, name: str) -> subprocess.Popen[str]:
        assert plan.compute.world_size == 2
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for host in range(2):
            where = ["--master-addr=127.0.0.1", f"--master-port={port}"]
            torchrun = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={host}", *where]
            arguments = command(plan, inputs, tmp_path / name, *torchrun)
            errors = subprocess.PIPE if host == 0 else subprocess.DEVNULL
            started.append(subprocess.Popen(arguments, text=True, stdout=subprocess.DEVNULL, stderr=errors))
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()
