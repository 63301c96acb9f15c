from typing import Any

import pytest

from tests.unit.cli.conftest import Run, Stub

WORKER: dict[str, Any] = {
    "id": "worker-1", "object": "worker", "name": "gpu-7:41", "host": "gpu-7", "status": "active", "draining": False,
    "busy": True, "retiring": False, "device": "cuda", "device_name": "NVIDIA L4", "ranks": 1, "threads_per_rank": 1,
    "memory_bytes": 24_000_000_000, "precision": "bf16", "quantisation": "none", "versions": {"tsugiki": "0.1.0"},
    "calibration": {"hardware": "NVIDIA L4", "token_budget": 4096, "peak_flops": 1e14, "tokens_per_s": 5000.0},
    "registered_at": 0, "seen_at": 60, "retired_at": None,
}  # fmt: skip


def listed(*items: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": False, "first_id": None, "last_id": None}


def test_workers_are_listed_with_what_they_can(stub: Stub, tsugiki: Run) -> None:
    stub.answer("GET /workers", listed(WORKER, WORKER | {"id": "worker-2", "status": "lost", "memory_bytes": None}))
    first, second = tsugiki("workers", "list").out.splitlines()[1:]
    assert first.split() == [
        "worker-1", "gpu-7:41", "active", "yes", "NVIDIA", "L4", "1", "24.0", "GB", "1970-01-01", "00:01:00Z",
    ]  # fmt: skip
    assert second.split()[2] == "lost"
    assert "retired" not in stub.requests()[0]
    tsugiki("workers", "list", "--retired")
    assert "retired=true" in stub.requests()[1]


def test_one_worker_is_shown_with_what_it_measured(stub: Stub, tsugiki: Run) -> None:
    stub.answer("GET /workers/worker-1", WORKER)
    shown = tsugiki("workers", "show", "worker-1").out
    assert "4096" in shown
    assert "tsugiki=0.1.0" in shown
    stub.answer("GET /workers/worker-2", WORKER | {"calibration": None})
    assert tsugiki("workers", "show", "worker-2").status == 0


@pytest.mark.parametrize(
    ("words", "busy", "asked", "said"),
    [
        (["drain"], False, "/drain", "takes no more jobs; it holds none."),
        (["drain"], True, "/drain", "takes no more jobs; it finishes the one that it holds first."),
        (["drain", "--now"], True, "/drain?now=true", "takes no more jobs; it gives the one that it holds back."),
        (["retire"], True, "/retire", "takes no more jobs, and ends; it finishes the one that it holds first."),
        (["retire", "--now"], False, "/retire?now=true", "takes no more jobs, and ends; it holds none."),
        (["undrain"], True, "/undrain", "takes jobs again."),
    ],
)
def test_what_is_asked_of_a_worker_is_said(
    *, stub: Stub, tsugiki: Run, words: list[str], busy: bool, asked: str, said: str
) -> None:
    stub.answer(f"POST /workers/worker-1/{words[0]}", WORKER | {"busy": busy})
    assert tsugiki("workers", words[0], "worker-1", *words[1:]).out == f"worker-1 {said}\n"
    assert stub.requests() == [f"POST /workers/worker-1{asked}"]
