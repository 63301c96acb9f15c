"""Requests to approve a version, and how people decide them."""

from datetime import datetime
from enum import StrEnum


class ApprovalState(StrEnum):
    """PENDING until enough people have approved, one has rejected, nobody has in time, or it is taken back."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Decision(StrEnum):
    """What one person says."""

    APPROVE = "approve"
    REJECT = "reject"


def state_at(state: str, expires_at: datetime, now: datetime) -> ApprovalState:
    """A request's state at a moment: one whose time is over has expired, whether or not that is written down yet."""
    found = ApprovalState(state)
    return ApprovalState.EXPIRED if found is ApprovalState.PENDING and expires_at <= now else found


def state_after(decision: Decision, *, approvals: int, required: int) -> ApprovalState:
    """What a request becomes by a decision, with so many approvals by then. One rejection is enough."""
    if decision is Decision.REJECT:
        return ApprovalState.REJECTED
    return ApprovalState.APPROVED if approvals >= required else ApprovalState.PENDING
