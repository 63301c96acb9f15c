"""What a peer's process tells of its steps; where the extra `bench` is installed."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.bench import read
from benchmarks.process import ROOT, python
from benchmarks.reports import Report
from tests.tiny_engine import write_tiny_base_model

# Three steps of two rows each; a row's first two tokens are not supervised.
LENGTHS = (5, 9, 4, 4, 12, 3)


def steps_of(folder: Path, trainer: str) -> Report:
    write_tiny_base_model(folder / "base_model")
    documents = [
        {"input_ids": list(range(5, 5 + length)), "labels": [-100, -100, *range(7, 5 + length)]} for length in LENGTHS
    ]
    (folder / "documents.json").write_text(json.dumps(documents))
    (folder / "out").mkdir()
    arguments = (
        f"--base-model={folder / 'base_model'}",
        f"--documents={folder / 'documents.json'}",
        f"--trainer={trainer}",
        "--precision=fp32",
        "--batch-size=2",
        "--phases=1:3",
        f"--out={folder / 'out'}",
    )
    subprocess.run(python("-m", "benchmarks.peers", *arguments), cwd=ROOT, check=True, capture_output=True)
    return read(Report, folder / "out" / "steps.json")


@pytest.mark.parametrize(("trainer", "package"), [("trainer", "datasets"), ("sft", "trl")])
def test_a_step_is_told_with_its_own_batch(tmp_path: Path, trainer: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} comes with the extra `bench`")
    steps = steps_of(tmp_path, trainer).steps
    assert [step.tokens for step in steps] == [5 + 9, 4 + 4, 12 + 3]
    assert [step.supervised_tokens for step in steps] == [3 + 7, 2 + 2, 10 + 1]
    # Both rows are as long as the longer one.
    assert [step.computed_tokens for step in steps] == [18, 8, 24]
