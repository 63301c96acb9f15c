from typing import Literal

from pydantic import Field

from api.objects.shape import Identified, Shape, seconds
from domain.access import PrincipalType
from domain.adapters import VersionState
from domain.data_classes import DataClass
from domain.digests import Digest
from domain.ids import IdKind, public_id
from domain.policies import Change, Scope
from domain.verdicts import Purpose, Reason, ReasonCode, Verdict
from models_db.adapters import AdapterVersion
from models_db.policies import StoredPolicy
from services.policies import PolicyDiff


class PolicyObject(Identified):
    """Version N of a policy: immutable. The newest one is in force."""

    id: str = Field(description="`policy-…`.")
    object: Literal["policy"] = Field(default="policy", description="Always `policy`.")
    scope: Scope = Field(description="Whose: the `organisation`'s, or the `department`'s.")
    version: int = Field(description="1 for the first, without gaps.")
    document: str = Field(description="YAML, byte for byte as it was put.")
    digest: Digest = Field(description="Of the document.")
    created_at: int = Field(description="When it was put, in seconds since 1970.")
    created_by: str = Field(description="Who put it: `user-…` or `svcacct_…`.")

    @classmethod
    def of(cls, stored: StoredPolicy) -> "PolicyObject":
        """From its row."""
        by_user = stored.created_by_type == PrincipalType.USER
        return cls(
            id=public_id(IdKind.POLICY, stored.id),
            scope=Scope.DEPARTMENT if stored.department_id else Scope.ORGANISATION,
            version=stored.number,
            document=stored.document,
            digest=stored.digest,
            created_at=seconds(stored.created_at),
            created_by=public_id(IdKind.USER if by_user else IdKind.SERVICE_ACCOUNT, stored.created_by),
        )


class PolicyChangeObject(Shape):
    """A rule that differs."""

    path: str = Field(description="Where it stands, such as `training.max_rank`.")
    before: str | None = Field(description="What it was, as JSON; null where it is new.")
    after: str | None = Field(description="What it is, as JSON; null where it is gone.")

    @classmethod
    def of(cls, change: Change) -> "PolicyChangeObject":
        """From the comparison."""
        return cls(path=change.path, before=change.before, after=change.after)


class PolicyDiffObject(Shape):
    """Two versions of a policy beside each other."""

    object: Literal["policy.diff"] = Field(default="policy.diff", description="Always `policy.diff`.")
    before: int | None = Field(description="Number of the older version; null where there is none.")
    after: int = Field(description="Number of the version asked about.")
    changes: list[PolicyChangeObject] = Field(description="The rules that differ, by path.")
    text: str = Field(description="The documents' difference, as `diff -u` shows it.")

    @classmethod
    def of(cls, diff: PolicyDiff) -> "PolicyDiffObject":
        """From the comparison."""
        changes = [PolicyChangeObject.of(change) for change in diff.changes]
        return cls(before=diff.before, after=diff.after, changes=changes, text=diff.text)


class VerdictReasonObject(Shape):
    """One thing that stands against it."""

    code: ReasonCode = Field(description="What, for a program; stable.")
    message: str = Field(description="What, for a person, with the numbers.")
    param: str = Field(description="The rule: whose document, and its path in it.")

    @classmethod
    def of(cls, reason: Reason) -> "VerdictReasonObject":
        """From the verdict."""
        return cls(code=reason.code, message=reason.message, param=reason.param)


class JudgedByObject(Shape):
    """A document that was in force."""

    scope: Scope = Field(description="Whose.")
    version: int | None = Field(description="Its number; null for one that was only tried.")
    digest: Digest = Field(description="Of the document.")


class VerdictObject(Shape):
    """What the policy in force says of a version."""

    object: Literal["policy.verdict"] = Field(default="policy.verdict", description="Always `policy.verdict`.")
    adapter: str = Field(description="The adapter's name.")
    version: int = Field(description="The version's number.")
    state: VersionState = Field(description="The version's state.")
    digest: Digest = Field(description="Of the version.")
    data_class: DataClass = Field(description="The most confidential of the files that it learned from.")
    purpose: Purpose = Field(description="What it was asked for.")
    passed: bool = Field(description="Whether nothing stands against it.")
    reasons: list[VerdictReasonObject] = Field(description="Everything that stands against it.")
    required_approvals: int = Field(description="How many people have to approve it.")
    policies: list[JudgedByObject] = Field(
        description="The documents that it was judged by; none where there are none."
    )
    policy_digest: Digest | None = Field(description="Of those documents together; audit events name it.")

    @classmethod
    def of(cls, version: AdapterVersion, verdict: Verdict, *, adapter: str, purpose: Purpose) -> "VerdictObject":
        """From the verdict on a version."""
        data_class = DataClass(version.data_class)
        return cls(
            adapter=adapter,
            version=version.number,
            state=VersionState(version.state),
            digest=version.digest,
            data_class=data_class,
            purpose=purpose,
            passed=verdict.passed,
            reasons=[VerdictReasonObject.of(reason) for reason in verdict.reasons],
            required_approvals=verdict.policy.required_approvals(data_class),
            policies=[
                JudgedByObject(scope=each.scope, version=each.number, digest=each.digest)
                for each in verdict.policy.documents
            ],
            policy_digest=verdict.policy.digest,
        )


class PolicyTestObject(Shape):
    """What a text would say of the department's versions if it were in force."""

    object: Literal["policy.test"] = Field(default="policy.test", description="Always `policy.test`.")
    passed: int = Field(description="How many versions pass.")
    failed: int = Field(description="How many do not.")
    data: list[VerdictObject] = Field(description="Version by version, newest first.")
