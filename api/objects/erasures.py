from typing import Annotated, Literal

from pydantic import Field, StrictStr

from api.objects.shape import Body, Identified, Shape, seconds, seconds_or_none
from domain.digests import Digest
from domain.erasures import DescendedJob, DescendedVersion, ErasurePlan, Holder, RunningJobs, Served
from domain.ids import IdKind, public_id
from services.file_erasures import Erasure


class ErasureRequest(Body):
    """A file to be erased."""

    reason: Annotated[StrictStr, Field(min_length=1, max_length=500)] = Field(
        description="Why: kept with the request. Name no person."
    )
    running_jobs: RunningJobs = Field(
        default=RunningJobs.STOP,
        description="`stop` cancels jobs that use the file; `finish` lets them end, and erases what they make.",
    )


class ErasureConfirmation(Body):
    """Agreement to what was shown."""

    digest: Digest = Field(description="`digest` of the dry run that is agreed to.")


class DescendsObject(Shape):
    """All that descends from the file."""

    versions: list[DescendedVersion] = Field(
        description="Versions. `trained_on` and `continued_from` learned from it, and are revoked and erased; the"
        " others were only measured on it, and stay."
    )
    jobs: list[DescendedJob] = Field(description="Jobs that read it, or go on from a version that learned from it.")
    evaluations: list[str] = Field(description="Reports measured on it, `eval-…`: their numbers stay.")
    holders: list[Holder] = Field(description="Who downloaded a version of these, and may have it still.")
    deployments: list[Served] = Field(description="Servers that say that they have one of these loaded.")
    same_bytes: list[str] = Field(description="Other files with the same bytes: they stay, and so does their object.")

    @classmethod
    def of(cls, plan: ErasurePlan) -> "DescendsObject":
        """From the plan."""
        return cls(
            versions=list(plan.versions),
            jobs=list(plan.jobs),
            evaluations=list(plan.evaluations),
            holders=list(plan.holders),
            deployments=list(plan.deployments),
            same_bytes=list(plan.same_bytes),
        )


class ErasedObject(Shape):
    """How much was erased."""

    objects: int = Field(description="Stored objects that are gone.")
    objects_kept: int = Field(description="Objects that another file or version has as well: they stay.")
    checkpoints: int = Field(description="Checkpoints.")
    versions: int = Field(description="Versions: their rows stay, as tombstones.")


class ErasureObject(Identified):
    """The erasing of a file: asked for by one person, agreed to by another."""

    id: str = Field(description="`erasure-…`.")
    object: Literal["file.erasure"] = Field(default="file.erasure", description="Always `file.erasure`.")
    file_id: str = Field(description="The file.")
    state: str = Field(description="`requested`, `erasing`, `done` or `withdrawn`.")
    running_jobs: str = Field(description="`stop` or `finish`.")
    reason: str = Field(description="Why.")
    digest: Digest = Field(description="Of what descends: a confirmation names it. It changes when something comes.")
    descends: DescendsObject = Field(description="What descends from it: now, or when it was confirmed.")
    requested_at: int = Field(description="When it was asked for, in seconds since 1970.")
    requested_by: str = Field(description="The person who asked: `user-…`.")
    confirmed_at: int | None = Field(description="When somebody else agreed.")
    confirmed_by: str | None = Field(description="Who agreed: `user-…`.")
    ended_at: int | None = Field(description="When it was done, or withdrawn.")
    erased: ErasedObject | None = Field(description="How much was erased, once it is done.")

    @classmethod
    def of(cls, erasure: Erasure) -> "ErasureObject":
        """From its row and its plan."""
        found = erasure.request
        confirmed = found.confirmed_human
        return cls(
            id=public_id(IdKind.FILE_ERASURE, found.id),
            file_id=public_id(IdKind.FILE, found.file_id),
            state=found.state,
            running_jobs=found.running_jobs,
            reason=found.reason,
            digest=erasure.plan.digest,
            descends=DescendsObject.of(erasure.plan),
            requested_at=seconds(found.requested_at),
            requested_by=public_id(IdKind.USER, found.requested_human),
            confirmed_at=seconds_or_none(found.confirmed_at),
            confirmed_by=public_id(IdKind.USER, confirmed) if confirmed else None,
            ended_at=seconds_or_none(found.ended_at),
            erased=ErasedObject.model_validate(found.result) if found.result else None,
        )
