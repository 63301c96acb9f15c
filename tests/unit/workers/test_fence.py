"""A lease that is no longer certain is given up, also when nobody can say whether it has ended."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import OperationalError

from domain.refusals import LeaseLost
from services.leases import Asked
from workers.fence import Fence

LEASE_S = 0.6
HELD: Any = SimpleNamespace(job=uuid4(), department=uuid4())


def runtime_whose_database(opening: Any) -> Any:
    @contextmanager
    def department(_department: object) -> Iterator[object]:
        yield opening()

    return SimpleNamespace(settings=SimpleNamespace(lease_s=LEASE_S), department=department)


def refuses() -> None:
    raise OperationalError("UPDATE", None, ConnectionRefusedError())


@pytest.mark.parametrize("opening", [refuses, threading.Event().wait], ids=["refuses", "never-answers"])
def test_ranks_are_killed_before_the_lease_ends_when_the_database_is_away(opening: Any) -> None:
    killed = threading.Event()
    claimed_at = time.monotonic()
    fence = Fence(runtime_whose_database(opening), [HELD], claimed_at=claimed_at)
    # Joined on leaving, but not for ever: the thread may hang in the database's driver.
    with fence:
        with fence.guard(killed.set):
            assert killed.wait(LEASE_S)
        assert time.monotonic() - claimed_at < LEASE_S
        with pytest.raises(LeaseLost):
            fence.check()


def test_a_fence_that_is_lost_lets_nothing_start() -> None:
    killed = threading.Event()
    with Fence(runtime_whose_database(refuses), [HELD], claimed_at=time.monotonic() - LEASE_S) as fence:
        with pytest.raises(LeaseLost):
            fence.pause(LEASE_S)
        with pytest.raises(LeaseLost), fence.guard(killed.set):
            pytest.fail("it began under a lost lease")


def test_renewals_keep_the_lease_and_bring_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, give_back = Asked(to_cancel=False, to_give_back=False), Asked(to_cancel=False, to_give_back=True)
    answers = iter([nothing, nothing, nothing, give_back])
    cancel = Asked(to_cancel=True, to_give_back=False)
    monkeypatch.setattr("workers.fence.leases.renew", lambda *_, **__: next(answers, cancel))
    begun = time.monotonic()
    with Fence(runtime_whose_database(object), [HELD], claimed_at=begun) as fence:
        while not fence.asked(HELD.job).to_give_back:
            assert not fence.asked(HELD.job).to_cancel
            fence.pause(0.01)
        while not fence.asked(HELD.job).to_cancel:
            fence.pause(0.01)
    # The fifth renewal: longer after the claim than an unrenewed lease would have lasted.
    assert time.monotonic() - begun > LEASE_S


def test_a_refused_renewal_kills_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def renew(*_: object, **__: object) -> Asked:
        raise LeaseLost("The lease has ended.")

    monkeypatch.setattr("workers.fence.leases.renew", renew)
    killed = threading.Event()
    begun = time.monotonic()
    with Fence(runtime_whose_database(object), [HELD], claimed_at=begun) as fence, fence.guard(killed.set):
        assert killed.wait(LEASE_S / 2)


def test_a_lease_that_was_let_go_may_end_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = SimpleNamespace(job=uuid4(), department=uuid4())

    def renew(_session: object, claim: Any, **_: object) -> Asked:
        if claim is HELD:
            raise LeaseLost("The lease has ended.")
        return Asked(to_cancel=False, to_give_back=True)

    monkeypatch.setattr("workers.fence.leases.renew", renew)
    begun = time.monotonic()
    with Fence(runtime_whose_database(object), [HELD, other], claimed_at=begun) as fence:
        fence.let_go(HELD.job)
        while not fence.all_asked or time.monotonic() - begun < LEASE_S:
            fence.pause(0.01)
    # The control: one that is still held is missed.
    with (
        pytest.raises(LeaseLost),
        Fence(runtime_whose_database(object), [HELD, other], claimed_at=time.monotonic()) as fence,
    ):
        fence.pause(LEASE_S)
