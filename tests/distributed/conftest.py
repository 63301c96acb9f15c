import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture
def launch(inputs: Path, tmp_path: Path) -> Launch:
    """Start `train` as the supervisor does; out/ is a folder of the given name below tmp_path."""

    def start(plan: TrainPlan, name: str) -> subprocess.Popen[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / f"{name}.json").write_text(plan.model_dump_json())
        ranks = f"--nproc-per-node={plan.compute.world_size}"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", ranks, "--max-restarts=0"]
        folders = ["--plan", f"{tmp_path}/{name}.json", "--inputs", str(inputs), "--out", f"{tmp_path}/{name}"]
        command = [*torchrun, "-m", "engine", "train", *folders]
        return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return start
