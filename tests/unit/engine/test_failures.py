import errno
from pathlib import Path

import pytest
import torch

from domain.plans import FailureKind, RunFailure
from engine.failures import BadData, describe, record_failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FailureKind.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), FailureKind.NO_SPACE),
        (OSError(errno.EACCES, "Permission denied", "/secret/path"), FailureKind.CRASH),
        (KeyError("/secret/path"), FailureKind.CRASH),
        (BadData("3 rows have more than 8 tokens."), FailureKind.BAD_DATA),
    ],
)
def test_failures_have_a_kind_and_no_path(error: BaseException, kind: FailureKind) -> None:
    assert describe(error).kind is kind
    assert "secret" not in describe(error).message


def test_the_first_rank_to_fail_is_believed(tmp_path: Path) -> None:
    record_failure(tmp_path / "run", MemoryError())
    record_failure(tmp_path / "run", RuntimeError("Connection closed by peer"))
    written = RunFailure.model_validate_json((tmp_path / "run" / "failure.json").read_bytes())
    assert written.kind is FailureKind.OUT_OF_MEMORY
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["failure.json"]
