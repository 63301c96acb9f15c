from typing import Any, Literal

from pydantic import Field, StrictStr

from api.objects.shape import Body, Shape, seconds, seconds_or_none
from domain.adapters import MAX_TEXT_CHARACTERS, Labels
from domain.cards import Card, CardApproval, CardEvaluation, CardFile, trainer_id
from domain.comparisons import Difference, FileChange
from domain.digests import Digest
from domain.ids import IdKind, public_id
from services.cards import Comparison


class DescribeRequest(Body):
    """What to write beside a version. What is left out stays; labels are replaced all together."""

    labels: Labels | None = Field(default=None, description="Up to 16, names in small letters.")
    description: StrictStr | None = Field(default=None, description="For people.", max_length=MAX_TEXT_CHARACTERS)


class ReasonRequest(Body):
    """Why something is stopped."""

    reason: StrictStr = Field(description="For people; it stays with the version.", min_length=1, max_length=500)


# --- the card ---------------------------------------------------------------------------------------------------------


class CardFileObject(Shape):
    """Rows that took part."""

    role: str = Field(description="`training`, `validation` or `evaluation`.")
    id: str = Field(description="`file-…`.")
    digest: Digest = Field(description="Of its bytes.")
    rows: int | None = Field(description="How many.")
    data_class: str = Field(description="How confidential they are.")
    deleted: bool = Field(description="Whether the bytes are gone.")

    @classmethod
    def of(cls, file: CardFile) -> "CardFileObject":
        """From the card."""
        return cls(
            role=file.role,
            id=public_id(IdKind.FILE, file.id),
            digest=file.digest,
            rows=file.rows,
            data_class=file.data_class,
            deleted=file.deleted,
        )


class CardEvaluationObject(Shape):
    """Held-out rows, measured with the base model alone and with the version."""

    id: str = Field(description="`eval-…`.")
    file_id: str = Field(description="The held-out rows.")
    base: dict[str, Any] = Field(description="With the base model alone.")
    adapter: dict[str, Any] = Field(description="With the version.")

    @classmethod
    def of(cls, evaluation: CardEvaluation) -> "CardEvaluationObject":
        """From the card."""
        return cls(
            id=public_id(IdKind.EVALUATION, evaluation.id),
            file_id=public_id(IdKind.FILE, evaluation.file_id),
            base=evaluation.base.model_dump(mode="json"),
            adapter=evaluation.adapter.model_dump(mode="json"),
        )


class CardDecisionObject(Shape):
    """What one person decided."""

    approver: str = Field(description="`user-…`.")
    decision: str = Field(description="`approve` or `reject`.")
    decided_at: int = Field(description="In seconds since 1970.")


class CardApprovalObject(Shape):
    """A request to approve it, and what came of it."""

    id: str = Field(description="`approval-…`.")
    state: str = Field(description="`pending`, `approved`, `rejected`, `expired` or `withdrawn`.")
    required: int = Field(description="How many people must approve.")
    requester: str = Field(description="The person who asked.")
    decisions: list[CardDecisionObject] = Field(description="Oldest first.")

    @classmethod
    def of(cls, approval: CardApproval) -> "CardApprovalObject":
        """From the card."""
        return cls(
            id=public_id(IdKind.APPROVAL, approval.id),
            state=approval.state,
            required=approval.required,
            requester=public_id(IdKind.USER, approval.requester),
            decisions=[
                CardDecisionObject(
                    approver=public_id(IdKind.USER, each.approver),
                    decision=each.decision,
                    decided_at=seconds(each.decided_at),
                )
                for each in approval.decisions
            ],
        )


class CardBaseModelObject(Shape):
    """The frozen model that it belongs on."""

    name: str = Field(description="Its name.")
    digest: Digest = Field(description="Of all its files.")


class CardTrainingObject(Shape):
    """Who trained it, on what, by which code."""

    job_id: str | None = Field(description="The job; null for an adapter made elsewhere.")
    trainer: str = Field(description="Whose key submitted it, or brought it here: `user-…` or `svcacct_…`.")
    person: str | None = Field(description="The person behind that key; null where nobody is known.")
    worker: str | None = Field(description="The worker that ran it.")
    worker_id: str | None = Field(description="`worker-…`, where it was registered.")
    code_version: str | None = Field(description="Our release, and a digest of the installed source.")
    versions: dict[str, str] | None = Field(description="Python and the packages that took part.")
    seed: int | None = Field(description="Of everything that is random in it.")
    spec: dict[str, Any] | None = Field(description="The frozen specification of the run.")


class CardObject(Shape):
    """A version's model card. Everything in it was written down when it happened."""

    object: Literal["adapter_card"] = Field(default="adapter_card", description="Always `adapter_card`.")
    id: str = Field(description="`adapterver-…`.")
    adapter: str = Field(description="The adapter.")
    number: int = Field(description="Which of its versions.")
    model: str = Field(description="What the client calls it.")
    digest: Digest = Field(description="Of its manifest.")
    state: str = Field(description="`candidate`, `approved`, `rejected`, `retired` or `revoked`.")
    state_reason: str | None = Field(description="Why it is retired or revoked.")
    state_changed_at: int | None = Field(description="Since when.")
    created_at: int = Field(description="When it was made, in seconds since 1970.")
    data_class: str = Field(description="That of the most confidential file it learned from.")
    labels: dict[str, str] = Field(description="What its department wrote beside it.")
    description: str = Field(description="The same in words.")
    aliases: list[str] = Field(description="Names that stand for it now.")
    base_model: CardBaseModelObject = Field(description="The base model.")
    training: CardTrainingObject = Field(description="How it was made.")
    data: list[CardFileObject] = Field(description="The rows that took part.")
    metrics: dict[str, Any] | None = Field(description="What the run measured of itself.")
    evaluations: list[CardEvaluationObject] = Field(description="Newest first.")
    approvals: list[CardApprovalObject] = Field(description="Oldest first; empty where the caller may not read them.")
    files: list[dict[str, Any]] = Field(description="Path, bytes and digest of each.")

    @classmethod
    def of(cls, card: Card) -> "CardObject":
        """From the facts."""
        return cls(
            id=public_id(IdKind.ADAPTER_VERSION, card.id),
            adapter=card.adapter,
            number=card.number,
            model=card.model,
            digest=card.digest,
            state=card.state,
            state_reason=card.state_reason,
            state_changed_at=seconds_or_none(card.state_changed_at),
            created_at=seconds(card.created_at),
            data_class=card.data_class,
            labels=card.labels,
            description=card.description,
            aliases=list(card.aliases),
            base_model=CardBaseModelObject(name=card.base_model, digest=card.base_model_digest),
            training=_training(card),
            data=[CardFileObject.of(file) for file in card.data],
            metrics=card.report.model_dump(mode="json", exclude={"run", "versions"}) if card.report else None,
            evaluations=[CardEvaluationObject.of(each) for each in card.evaluations],
            approvals=[CardApprovalObject.of(each) for each in card.approvals],
            files=[file.model_dump(mode="json") for file in card.manifest.files],
        )


def _training(card: Card) -> CardTrainingObject:
    return CardTrainingObject(
        job_id=public_id(IdKind.JOB, card.job) if card.job else None,
        trainer=trainer_id(card),
        person=public_id(IdKind.USER, card.person) if card.person else None,
        worker=card.worker,
        worker_id=public_id(IdKind.WORKER, card.worker_id) if card.worker_id else None,
        code_version=card.code_version,
        versions=card.report.versions if card.report else None,
        seed=card.spec.seed if card.spec else None,
        spec=card.spec.model_dump(mode="json") if card.spec else None,
    )


# --- two of them ------------------------------------------------------------------------------------------------------


class DifferenceObject(Shape):
    """A value in the one version and in the other; null where there is none."""

    name: str = Field(description="With dots: `optimiser.learning_rate`.")
    before: Any = Field(description="In the version `from`.")
    after: Any = Field(description="In the version `to`.")
    change: float | None = Field(description="`after` less `before`, where both are numbers.")

    @classmethod
    def of(cls, difference: Difference) -> "DifferenceObject":
        """From the comparison."""
        before, after = _number(difference.before), _number(difference.after)
        change = None if before is None or after is None else after - before
        return cls(name=difference.name, before=difference.before, after=difference.after, change=change)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


class FileChangeObject(Shape):
    """What became of a file."""

    path: str = Field(description="Path in the PEFT folder.")
    change: str = Field(description="`added`, `removed`, `changed` or `same`.")
    before: Digest | None = Field(description="Digest in the version `from`.")
    after: Digest | None = Field(description="Digest in the version `to`.")

    @classmethod
    def of(cls, change: FileChange) -> "FileChangeObject":
        """From the comparison."""
        return cls(path=change.path, change=change.change, before=change.before, after=change.after)


class ComparisonObject(Shape):
    """Two versions of an adapter beside each other."""

    object: Literal["adapter_comparison"] = Field(
        default="adapter_comparison", description="Always `adapter_comparison`."
    )
    adapter: str = Field(description="The adapter.")
    before: int = Field(description="Number of the version `from`.")
    after: int = Field(description="Number of the version `to`.")
    spec: list[DifferenceObject] = Field(description="Settings that are different.")
    data: list[DifferenceObject] = Field(description="What is different about the rows, by their role.")
    metrics: list[DifferenceObject] = Field(description="Every measurement of either.")
    files: list[FileChangeObject] = Field(description="Every file of either.")

    @classmethod
    def of(cls, adapter: str, comparison: Comparison) -> "ComparisonObject":
        """From the service."""
        return cls(
            adapter=adapter,
            before=comparison.before.number,
            after=comparison.after.number,
            spec=[DifferenceObject.of(each) for each in comparison.spec],
            data=[DifferenceObject.of(each) for each in comparison.data],
            metrics=[DifferenceObject.of(each) for each in comparison.metrics],
            files=[FileChangeObject.of(each) for each in comparison.files],
        )
