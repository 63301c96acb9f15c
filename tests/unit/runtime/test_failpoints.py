import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from domain import failpoints
from domain.failpoints import FailPoint, failpoint
from runtime.failpoints import Act, Arming, FailPointReached, install, parse
from runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_every_part_of_an_arming_is_read() -> None:
    armings = parse("claim.committed=kill; renew.before=sleep:0.5*3@0.25 ;finish.in_tx=stop:2;seed=7;")
    assert armings.seed == 7
    assert armings.at == {
        FailPoint.CLAIM_COMMITTED: Arming(Act.KILL),
        FailPoint.RENEW_BEFORE: Arming(Act.SLEEP, seconds=0.5, times=3, probability=0.25),
        FailPoint.FINISH_IN_TX: Arming(Act.STOP, seconds=2),
    }


@pytest.mark.parametrize(
    "wrong",
    ["claim=kill", "claim.committed", "claim.committed=die", "claim.committed=sleep", "claim.committed=kill*0",
     "claim.committed=kill@1.5", "claim.committed=kill@", "claim.committed=sleep:-1", "seed=x"],
)  # fmt: skip
def test_a_process_does_not_start_with_what_cannot_be(wrong: str) -> None:
    with pytest.raises(ValidationError, match="failpoints"):
        Settings(
            database_url="postgresql+psycopg://nowhere", broker_url="redis://nowhere", s3_access_key="none",
            s3_secret_key="none", signing_key_file="none.pem", failpoints=wrong,
        )  # fmt: skip


def test_an_unarmed_point_is_passed() -> None:
    install(None)
    for point in FailPoint:
        failpoint(point)


def test_only_the_named_point_fails_and_only_as_often_as_said() -> None:
    install("claim.in_tx=raise*2")
    failpoint(FailPoint.CLAIM_COMMITTED)
    for _ in range(2):
        with pytest.raises(FailPointReached):
            failpoint(FailPoint.CLAIM_IN_TX)
    failpoint(FailPoint.CLAIM_IN_TX)


def _failures(seed: int) -> list[bool]:
    install(f"claim.in_tx=raise@0.5;seed={seed}")
    found = []
    for _ in range(200):
        try:
            failpoint(FailPoint.CLAIM_IN_TX)
        except FailPointReached:
            found.append(True)
        else:
            found.append(False)
    return found


def test_likelihood_follows_its_seed() -> None:
    assert _failures(1) == _failures(1) != _failures(2)
    assert 60 < Counter(_failures(1))[True] < 140


@pytest.mark.parametrize(("act", "status"), [("kill", -signal.SIGKILL), ("stop:0.2", 0), ("sleep:0.2", 0)])
def test_a_process_is_killed_or_held_up_at_its_point(act: str, status: int) -> None:
    program = (
        "import time\n"
        "from domain.failpoints import FailPoint, failpoint\n"
        "from runtime.failpoints import install\n"
        f"install('claim.in_tx={act}')\n"
        "begun = time.monotonic()\n"
        "failpoint(FailPoint.CLAIM_IN_TX)\n"
        "assert time.monotonic() - begun > 0.15\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, timeout=60)
    assert ended.returncode == status, ended.stderr


def test_every_point_is_passed_somewhere_and_only_there() -> None:
    folders = ("api", "models_db", "runtime", "services", "storage", "workers")
    sources = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    passed = Counter(re.findall(r"failpoint\(FailPoint\.(\w+)\)", sources))
    assert passed == {point.name: 1 for point in FailPoint}
