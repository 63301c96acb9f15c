from typing import Literal
from uuid import UUID

from pydantic import Field, StrictStr

from api.objects.shape import Body, Identified, Shape, seconds, seconds_or_none
from domain.access import PrincipalType
from domain.adapters import MAX_TEXT_CHARACTERS
from domain.approvals import ApprovalState, Decision
from domain.digests import Digest
from domain.ids import IdKind, parse_id, public_id
from domain.refusals import NotFound, UnknownEvaluation
from services.approvals import Approval, Evidence

_MAX_EVALUATIONS = 32


class ApprovalRequestBody(Body):
    """A version that is to be approved, and why it should be."""

    adapter: StrictStr = Field(description="The adapter's name.", max_length=64)
    version: StrictStr = Field(description="A version's number, or an alias, as text.", max_length=64)
    note: StrictStr = Field(default="", description="For whoever decides.", max_length=MAX_TEXT_CHARACTERS)
    evaluation_ids: list[StrictStr] = Field(
        default=[], description="Evaluations of the version that speak for it.", max_length=_MAX_EVALUATIONS
    )

    def evidence(self) -> Evidence:
        """In the words of the service."""
        return Evidence(note=self.note, evaluations=[_evaluation(each) for each in self.evaluation_ids])


def _evaluation(text: str) -> UUID:
    try:
        return parse_id(IdKind.EVALUATION, text)
    except NotFound:
        raise UnknownEvaluation("No such evaluation of this version.", param="evaluation_ids") from None


class DecisionRequest(Body):
    """What one person decides, about which bytes."""

    decision: Decision = Field(description="`approve` or `reject`.")
    digest: Digest = Field(description="The digest that was looked at: the version's, or nothing is decided.")
    comment: StrictStr = Field(default="", description="Why.", max_length=MAX_TEXT_CHARACTERS)


class CommentRequest(Body):
    """Something to say to a request."""

    comment: StrictStr = Field(description="For people.", min_length=1, max_length=MAX_TEXT_CHARACTERS)


class DecisionObject(Shape):
    """What one person decided."""

    approver: str = Field(description="`user-…`: the person behind the key.")
    decision: Decision = Field(description="`approve` or `reject`.")
    comment: str = Field(description="Why.")
    policy_digest: Digest | None = Field(description="Of the policies that were in force; null where there were none.")
    created_at: int = Field(description="When, in seconds since 1970.")


class CommentObject(Shape):
    """What somebody said."""

    author: str = Field(description="`user-…` or `svcacct_…`.")
    comment: str = Field(description="For people.")
    created_at: int = Field(description="When, in seconds since 1970.")


class ApprovalObject(Identified):
    """A request to approve a version, and what people decided."""

    id: str = Field(description="`approval-…`.")
    object: Literal["approval"] = Field(default="approval", description="Always `approval`.")
    adapter: str = Field(description="The adapter.")
    version: int = Field(description="Number of the version.")
    version_id: str = Field(description="Its id.")
    digest: Digest = Field(description="The bytes that it is about; a decision must name them.")
    state: ApprovalState = Field(description="`pending`, `approved`, `rejected`, `expired` or `withdrawn`.")
    required: int = Field(description="How many people must approve; a policy since then may ask for more.")
    policy_digest: Digest | None = Field(description="Of the policies in force then; null where there were none.")
    submitter: str = Field(description="The person who had the version made; never one who decides.")
    requester: str = Field(description="The person who asked; never one who decides.")
    requested_by: str = Field(description="Whose key asked: `user-…` or `svcacct_…`.")
    note: str = Field(description="Why it should be approved.")
    evaluation_ids: list[str] = Field(description="Evaluations that speak for it.")
    decisions: list[DecisionObject] = Field(description="Oldest first.")
    comments: list[CommentObject] = Field(description="Oldest first.")
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    expires_at: int = Field(description="When it is over if nobody has decided.")
    closed_at: int | None = Field(description="When it was decided or withdrawn; null before.")

    @classmethod
    def of(cls, approval: Approval) -> "ApprovalObject":
        """From its rows."""
        request = approval.request
        return cls(
            id=public_id(IdKind.APPROVAL, request.id),
            adapter=approval.adapter,
            version=approval.number,
            version_id=public_id(IdKind.ADAPTER_VERSION, request.version_id),
            digest=request.digest,
            state=approval.state,
            required=request.required,
            policy_digest=request.policy_digest,
            submitter=public_id(IdKind.USER, request.submitter_id),
            requester=public_id(IdKind.USER, request.requester_id),
            requested_by=_caller(request.requested_by_type, request.requested_by),
            note=request.note,
            evaluation_ids=[public_id(IdKind.EVALUATION, each) for each in request.evaluation_ids],
            decisions=[
                DecisionObject(
                    approver=public_id(IdKind.USER, each.approver_id),
                    decision=Decision(each.decision),
                    comment=each.comment,
                    policy_digest=each.policy_digest,
                    created_at=seconds(each.created_at),
                )
                for each in approval.decisions
            ],
            comments=[
                CommentObject(
                    author=_caller(each.author_type, each.author_id),
                    comment=each.comment,
                    created_at=seconds(each.created_at),
                )
                for each in approval.comments
            ],
            created_at=seconds(request.created_at),
            expires_at=seconds(request.expires_at),
            closed_at=seconds_or_none(request.closed_at),
        )

    def without_text(self) -> "ApprovalObject":
        """For who sees metadata alone: who asked and decided what, and nothing that they wrote."""
        decisions = [each.model_copy(update={"comment": ""}) for each in self.decisions]
        return self.model_copy(update={"note": "", "decisions": decisions, "comments": []})


def _caller(kind: str, key: UUID) -> str:
    return public_id(IdKind.USER if kind == PrincipalType.USER else IdKind.SERVICE_ACCOUNT, key)
