"""Approval: somebody asks with evidence, others decide. Nobody decides about what they made, or asked for themselves.

A request is about a digest, and so is every decision: of other bytes nothing is approved. Who acts is the person behind
the key. The database refuses by itself what this should miss: CHECKs on the decision, and `check_version_change`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require, require_all
from domain.adapters import VersionState
from domain.approvals import ApprovalState, Decision, state_after, state_at
from domain.audit import AuditEvent
from domain.digests import Digest
from domain.outgoing import OutgoingKind
from domain.refusals import (
    AlreadyDecided,
    ApprovalExpired,
    ApprovalPending,
    DigestChanged,
    NotFound,
    SeparationOfDuties,
    UnknownEvaluation,
)
from domain.verdicts import Purpose
from models_db.adapters import Adapter, AdapterVersion, Evaluation
from models_db.approvals import ApprovalComment, ApprovalDecision, ApprovalRequest
from services import aliases, audit, outbox, policies, versions
from services.cursors import known_cursor


@dataclass(frozen=True)
class Evidence:
    """What a request rests on: evaluations of the version, and a few words."""

    note: str
    evaluations: Sequence[UUID]


@dataclass(frozen=True)
class Approval:
    """A request with all that was said and decided. state: at this moment, by the database's clock."""

    request: ApprovalRequest
    # What it is about.
    adapter: str
    number: int
    state: ApprovalState
    decisions: Sequence[ApprovalDecision]
    comments: Sequence[ApprovalComment]


# --- asking -----------------------------------------------------------------------------------------------------------


def request(
    session: Session, principal: Principal, version: AdapterVersion, evidence: Evidence, *, lives: timedelta
) -> Approval:
    """Ask for a candidate to be approved. Raises AlreadyDecided, ApprovalPending, UnknownEvaluation.

    SeparationOfDuties where nobody is known who answers for the key, or for the version: nobody could decide then.
    PolicyViolation, with every reason, where the policy in force is against it.
    """
    require(principal, Permission.APPROVAL_REQUEST)
    requester = _person(principal)
    found = versions.lock(session, version)
    if found.state != VersionState.CANDIDATE:
        raise AlreadyDecided(f"The version is {found.state}.")
    if found.submitter_id is None:
        raise SeparationOfDuties("Nobody is known who had this version made.")
    _check_evaluations(session, found, evidence.evaluations)
    _close_expired(session, principal, found)
    policy = policies.require_passed(session, found, Purpose.APPROVAL)
    now = _now(session)
    made = ApprovalRequest(
        department_id=found.department_id,
        version_id=found.id,
        digest=found.digest,
        submitter_id=found.submitter_id,
        requester_id=requester,
        requested_by=principal.id,
        requested_by_type=principal.type,
        note=evidence.note,
        evaluation_ids=list(evidence.evaluations),
        required=policies.required_approvals(session, found),
        policy_digest=policy,
        state=ApprovalState.PENDING,
        expires_at=now + lives,
    )
    session.add(made)
    session.flush()
    _record(session, principal, made, AuditEvent.VERSION_APPROVAL_REQUESTED, required=made.required, policy=policy)
    return _approval(session, made)


def _person(principal: Principal) -> UUID:
    if principal.human is None:
        raise SeparationOfDuties("Nobody is known who answers for this key.")
    return principal.human


def _check_evaluations(session: Session, version: AdapterVersion, wanted: Sequence[UUID]) -> None:
    known = session.scalars(select(Evaluation.id).where(Evaluation.version_id == version.id))
    if not set(wanted) <= set(known):
        raise UnknownEvaluation("No such evaluation of this version.", param="evaluation_ids")


def _close_expired(session: Session, principal: Principal, version: AdapterVersion) -> None:
    """Write down that an earlier request's time is over. Raises ApprovalPending where it is not."""
    waiting = select(ApprovalRequest).where(
        ApprovalRequest.version_id == version.id, ApprovalRequest.state == ApprovalState.PENDING
    )
    earlier = session.scalars(waiting.with_for_update()).one_or_none()
    if earlier is None:
        return
    if state_at(earlier.state, earlier.expires_at, _now(session)) is ApprovalState.PENDING:
        raise ApprovalPending("A request for this version waits for a decision already.")
    _close(session, earlier, ApprovalState.EXPIRED)
    _record(session, principal, earlier, AuditEvent.VERSION_APPROVAL_EXPIRED)


def withdraw(session: Session, principal: Principal, approval: UUID) -> Approval:
    """Take a request back: whoever asked, or an admin. Raises AlreadyDecided."""
    require(principal, Permission.APPROVAL_WITHDRAW)
    found = _open_request(session, approval)
    if principal.id != found.requested_by:
        require_all(principal, Permission.APPROVAL_WITHDRAW)
    _close(session, found, ApprovalState.WITHDRAWN)
    _record(session, principal, found, AuditEvent.VERSION_APPROVAL_WITHDRAWN)
    return _approval(session, found)


# --- deciding ---------------------------------------------------------------------------------------------------------


def decide(
    session: Session, principal: Principal, approval: UUID, decision: Decision, *, digest: Digest, comment: str
) -> Approval:
    """Approve or reject, for the bytes of that digest; the version follows once enough people approved or one rejected.

    Raises SeparationOfDuties, AlreadyDecided (also for one's own second decision), ApprovalExpired, DigestChanged, and
    PolicyViolation where the policy in force by now is against what would be approved.
    """
    require(principal, Permission.APPROVAL_DECIDE)
    approver = _person(principal)
    found = _open_request(session, approval)
    if approver in {found.submitter_id, found.requester_id}:
        raise SeparationOfDuties("Nobody decides about a version they had made, or a request of their own.")
    if digest != found.digest:
        raise DigestChanged("The request is about other bytes than those.", param="digest")
    earlier = session.scalars(select(ApprovalDecision).where(ApprovalDecision.request_id == found.id)).all()
    if approver in {each.approver_id for each in earlier}:
        raise AlreadyDecided("You have decided already.")
    version = session.get_one(AdapterVersion, found.version_id)
    verdict = policies.judge(session, version, Purpose.APPROVAL)
    if decision is Decision.APPROVE:
        verdict.require_passed()
    session.add(
        ApprovalDecision(
            department_id=found.department_id,
            request_id=found.id,
            version_id=found.version_id,
            digest=found.digest,
            submitter_id=found.submitter_id,
            requester_id=found.requester_id,
            approver_id=approver,
            decision=decision,
            comment=comment,
            policy_digest=verdict.policy.digest,
        )
    )
    session.flush()
    approvals = sum(each.decision == Decision.APPROVE for each in earlier) + (decision is Decision.APPROVE)
    # The request remembers how many were asked for then; a policy since may ask for more, never for fewer.
    required = max(found.required, policies.required_approvals(session, version))
    state = state_after(decision, approvals=approvals, required=required)
    details = {"required": required, "policy": verdict.policy.digest}
    _conclude(session, principal, found, state, details=details)
    return _approval(session, found)


def _conclude(
    session: Session,
    principal: Principal,
    found: ApprovalRequest,
    state: ApprovalState,
    *,
    details: Mapping[str, object],
) -> None:
    """Close the request where it is decided now, and let the version follow."""
    version = session.get_one(AdapterVersion, found.version_id)
    if state is ApprovalState.PENDING:
        _record(session, principal, found, AuditEvent.VERSION_APPROVAL_GIVEN, **details)
        return
    _close(session, found, state)
    if state is ApprovalState.APPROVED:
        versions.become(session, version, VersionState.APPROVED)
        _record(session, principal, found, AuditEvent.VERSION_APPROVED, **details)
        outbox.announce_version(session, OutgoingKind.VERSION_APPROVED, version)
        return
    withdrawn = aliases.withdraw_from(session, principal, version)
    versions.become(session, version, VersionState.REJECTED)
    _record(session, principal, found, AuditEvent.VERSION_REJECTED, aliases=withdrawn, policy=details["policy"])


def comment(session: Session, principal: Principal, approval: UUID, text: str) -> Approval:
    """Say something to a request, whatever its state."""
    require(principal, Permission.APPROVAL_COMMENT)
    found = _request(session, approval)
    said = ApprovalComment(
        department_id=found.department_id,
        request_id=found.id,
        author_type=principal.type,
        author_id=principal.id,
        comment=text,
    )
    session.add(said)
    session.flush()
    _record(session, principal, found, AuditEvent.VERSION_APPROVAL_COMMENTED)
    return _approval(session, found)


def _open_request(session: Session, approval: UUID) -> ApprovalRequest:
    """The request, with its version and adapter locked. Raises AlreadyDecided and ApprovalExpired."""
    version = session.get_one(AdapterVersion, _request(session, approval).version_id)
    aliases.lock(session, version.adapter_id)
    session.refresh(version, with_for_update=True)
    found = session.get_one(ApprovalRequest, approval, with_for_update=True, populate_existing=True)
    state = state_at(found.state, found.expires_at, _now(session))
    if state is ApprovalState.EXPIRED:
        raise ApprovalExpired("The request's time is over: it has to be made anew.")
    if state is not ApprovalState.PENDING:
        raise AlreadyDecided(f"The request is {state.value} already.")
    return found


def _close(session: Session, found: ApprovalRequest, state: ApprovalState) -> None:
    found.state, found.closed_at = state, session.scalar(select(func.now()))
    session.flush()


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApprovalFilter:
    """Which requests. waiting_for_me: those that the caller can decide now."""

    waiting_for_me: bool = False
    state: ApprovalState | None = None
    version: UUID | None = None
    after: UUID | None = None
    limit: int = 20


def list_page(session: Session, principal: Principal, wanted: ApprovalFilter) -> tuple[Sequence[Approval], bool]:
    """A page of the department's requests, newest first, and whether there are more."""
    require(principal, Permission.APPROVAL_READ)
    statement = select(ApprovalRequest)
    if wanted.waiting_for_me:
        statement = _waiting_for(statement, principal)
    if wanted.state is not None:
        statement = statement.where(_in_state(wanted.state))
    if wanted.version is not None:
        statement = statement.where(ApprovalRequest.version_id == wanted.version)
    if wanted.after is not None:
        statement = statement.where(ApprovalRequest.id < known_cursor(session, ApprovalRequest, wanted.after))
    found = session.scalars(statement.order_by(ApprovalRequest.id.desc()).limit(wanted.limit + 1)).all()
    return _approvals(session, found[: wanted.limit]), len(found) > wanted.limit


def get(session: Session, principal: Principal, approval: UUID) -> Approval:
    """One request. Raises NotFound."""
    require(principal, Permission.APPROVAL_READ)
    return _approval(session, _request(session, approval))


def _waiting_for(statement: Select[ApprovalRequest], principal: Principal) -> Select[ApprovalRequest]:
    if principal.human is None or not principal.may(Permission.APPROVAL_DECIDE):
        return statement.where(false())
    decided = select(ApprovalDecision.request_id).where(ApprovalDecision.approver_id == principal.human)
    return statement.where(
        _in_state(ApprovalState.PENDING),
        ApprovalRequest.submitter_id != principal.human,
        ApprovalRequest.requester_id != principal.human,
        ApprovalRequest.id.not_in(decided),
    )


def _in_state(state: ApprovalState) -> ColumnElement[bool]:
    """The same as `state_at`, for many."""
    pending, over = ApprovalRequest.state == ApprovalState.PENDING, ApprovalRequest.expires_at <= func.now()
    if state is ApprovalState.PENDING:
        return and_(pending, ~over)
    if state is ApprovalState.EXPIRED:
        return or_(ApprovalRequest.state == state, and_(pending, over))
    return ApprovalRequest.state == state


def _request(session: Session, approval: UUID) -> ApprovalRequest:
    found = session.get(ApprovalRequest, approval)
    if found is None:
        raise NotFound("No such approval.")
    return found


def _approval(session: Session, found: ApprovalRequest) -> Approval:
    return _approvals(session, [found])[0]


def _approvals(session: Session, requests: Sequence[ApprovalRequest]) -> list[Approval]:
    """With what they are about and what people said, in as many queries for a page as for one."""
    ids, now = [each.id for each in requests], _now(session)
    named = session.execute(
        select(AdapterVersion.id, AdapterVersion.number, Adapter.name)
        .join(Adapter, Adapter.id == AdapterVersion.adapter_id)
        .where(AdapterVersion.id.in_([each.version_id for each in requests]))
    )
    named_by_version = {row.id: (row.name, row.number) for row in named}
    decisions = _by_request(session, ApprovalDecision, ids)
    comments = _by_request(session, ApprovalComment, ids)
    return [
        Approval(
            request=each,
            adapter=named_by_version[each.version_id][0],
            number=named_by_version[each.version_id][1],
            state=state_at(each.state, each.expires_at, now),
            decisions=decisions[each.id],
            comments=comments[each.id],
        )
        for each in requests
    ]


Said = TypeVar("Said", ApprovalDecision, ApprovalComment)


def _by_request(session: Session, table: type[Said], requests: Sequence[UUID]) -> dict[UUID, list[Said]]:
    """What people decided or said, oldest first."""
    found: dict[UUID, list[Said]] = defaultdict(list)
    for each in session.scalars(select(table).where(table.request_id.in_(requests)).order_by(table.id)):
        found[each.request_id].append(each)
    return found


def _now(session: Session) -> datetime:
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


def _record(
    session: Session, principal: Principal, found: ApprovalRequest, event: AuditEvent, **details: object
) -> None:
    version = session.get_one(AdapterVersion, found.version_id)
    audit.record(
        session,
        principal,
        event,
        resource=("adapter_version", found.version_id),
        refs=[version.adapter_id, found.id, found.submitter_id],
        details={"digest": found.digest, "number": version.number, **details},
    )
