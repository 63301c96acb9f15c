from datetime import UTC, datetime, timedelta

import pytest

from domain.approvals import ApprovalState, Decision, state_after, state_at
from domain.data_classes import ORDINARY, REQUIRED_APPROVALS, DataClass, strictest

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
PENDING, APPROVED, REJECTED, EXPIRED, WITHDRAWN = ApprovalState


def test_a_request_expires_at_its_time_and_not_before() -> None:
    assert state_at("pending", NOON, NOON - TICK) is PENDING
    assert state_at("pending", NOON, NOON) is EXPIRED


@pytest.mark.parametrize("state", [APPROVED, REJECTED, WITHDRAWN])
def test_what_was_decided_in_time_does_not_expire(state: ApprovalState) -> None:
    assert state_at(state, NOON, NOON + TICK) is state


@pytest.mark.parametrize(
    ("decision", "approvals", "required", "state"),
    [
        (Decision.APPROVE, 1, 1, APPROVED),
        (Decision.APPROVE, 1, 2, PENDING),
        (Decision.APPROVE, 2, 2, APPROVED),
        (Decision.REJECT, 0, 1, REJECTED),
        (Decision.REJECT, 1, 2, REJECTED),
    ],
)
def test_enough_approvals_or_one_rejection_decide(
    decision: Decision, approvals: int, required: int, state: ApprovalState
) -> None:
    assert state_after(decision, approvals=approvals, required=required) is state


def test_the_strictest_class_is_that_of_the_whole() -> None:
    public, internal, confidential, restricted = DataClass
    assert strictest([internal, restricted, public]) is restricted
    assert strictest([public]) is public
    assert strictest([confidential, internal]) is confidential
    assert strictest([]) is ORDINARY


def test_restricted_rows_need_two_people() -> None:
    assert set(REQUIRED_APPROVALS) == set(DataClass)
    assert {data_class for data_class, people in REQUIRED_APPROVALS.items() if people == 2} == {DataClass.RESTRICTED}
    assert min(REQUIRED_APPROVALS.values()) == 1
