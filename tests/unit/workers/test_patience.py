import pytest

from storage.errors import StorageUnavailable
from workers.patience import LONGEST_WAIT_S, Patience


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
