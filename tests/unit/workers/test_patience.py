from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.digests import digest_of
from storage.errors import DigestMismatch, ObjectMissing, StorageError, StorageUnavailable
from storage.keys import Key
from workers.patience import LONGEST_WAIT_S, READS, Patience


def test_a_store_that_comes_back_is_asked_again_after_growing_waits() -> None:
    waits: list[float] = []
    outcomes: list[object] = [StorageUnavailable("away")] * 12 + ["here"]

    def operation() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, StorageUnavailable):
            raise outcome
        return outcome

    assert Patience(waits.append).insist(operation) == "here"
    # Full jitter below 0.5 s doubled each time, to half a minute at most.
    bounds = [min(LONGEST_WAIT_S, 0.5 * 2**number) for number in range(12)]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == 12


def test_patience_ends() -> None:
    def operation() -> None:
        raise StorageUnavailable("away")

    with pytest.raises(StorageUnavailable):
        Patience(lambda _seconds: None, limit_s=0).insist(operation)


class Store:
    """Fails as it is told, then has the object."""

    def __init__(self, *failures: StorageError) -> None:
        self.failures, self.reads = list(failures), 0

    def fetch(self, *_what: object) -> None:
        self.reads += 1
        if self.failures:
            raise self.failures.pop(0)


def fetch(store: Any) -> None:
    digest = digest_of(b"")
    Patience(lambda _seconds: None, limit_s=0).fetch(store, Key.blob(uuid4(), digest), Path("nowhere"), digest)


@pytest.mark.parametrize("failure", [ObjectMissing("not yet"), DigestMismatch("changed on its way")])
def test_what_is_read_wrong_once_is_read_again(failure: StorageError) -> None:
    store = Store(failure)
    fetch(store)
    assert store.reads == 2


@pytest.mark.parametrize("kind", [ObjectMissing, DigestMismatch])
def test_what_is_wrong_each_time_is_wrong(kind: type[StorageError]) -> None:
    store = Store(*(kind("really") for _ in range(9)))
    with pytest.raises(kind):
        fetch(store)
    assert store.reads == READS
