"""The page's own walkthrough, run as it stands: from a policy to an erasure, and the auditor's proof of all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, RunningService

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

SCRIPT = ROOT / "docs" / "examples" / "governance.sh"


def test_the_walkthrough_does_what_it_says(service: RunningService, tmp_path: Path) -> None:
    installed = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{installed}:{os.environ['PATH']}", "TSUGIKI_STATE": str(service.directory)}
    # What `tsugiki` reads the address from.
    (tmp_path / ".tsugiki").symlink_to(service.directory)
    ended = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path / "out")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=850,
    )  # fmt: skip
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    assert ended.stdout.rstrip().endswith("All of it was as it should be")
