from typing import Any, Literal

from pydantic import Field

from api.objects.shape import Identified, Shape, seconds, seconds_or_none
from domain.adapters import LATEST
from domain.digests import Digest, Manifest
from domain.ids import IdKind, public_id
from models_db.adapters import Adapter, AdapterVersion, Evaluation


class AdapterObject(Identified):
    """A named series of versions."""

    id: str = Field(description="`adapter-…`.")
    object: Literal["adapter"] = Field(default="adapter", description="Always `adapter`.")
    name: str = Field(description="Its name, from the jobs' suffix.")
    latest: int | None = Field(description="Number of its newest version.")
    aliases: dict[str, int] = Field(description="Names that move between versions, and the numbers they stand for now.")
    created_at: int = Field(description="When its first version was made, in seconds since 1970.")

    @classmethod
    def of(cls, adapter: Adapter, aliases: dict[str, int]) -> "AdapterObject":
        """From its row and its aliases."""
        return cls(
            id=public_id(IdKind.ADAPTER, adapter.id),
            name=adapter.name,
            latest=aliases.get(LATEST),
            aliases=aliases,
            created_at=seconds(adapter.created_at),
        )


class AdapterFileObject(Shape):
    """A file of a version."""

    path: str = Field(description="Path in the PEFT folder.")
    bytes: int = Field(description="Size.")
    digest: Digest = Field(description="Of its bytes.")


class EvaluationObject(Shape):
    """The held-out rows, measured with the base model alone and with the adapter."""

    id: str = Field(description="`eval-…`.")
    file_id: str = Field(description="The held-out rows.")
    base: dict[str, Any] = Field(description="With the base model alone: rows, loss, token_accuracy, accuracy.")
    adapter: dict[str, Any] = Field(description="With the adapter: the same measurements.")

    @classmethod
    def of(cls, evaluation: Evaluation) -> "EvaluationObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.EVALUATION, evaluation.id),
            file_id=public_id(IdKind.FILE, evaluation.file_id),
            base=evaluation.base_report,
            adapter=evaluation.adapter_report,
        )


class AdapterVersionObject(Identified):
    """Version N of an adapter: immutable but for its state, its labels and its description."""

    id: str = Field(description="`adapterver-…`.")
    object: Literal["adapter_version"] = Field(default="adapter_version", description="Always `adapter_version`.")
    adapter: str = Field(description="The adapter's name.")
    number: int = Field(description="1 for the first, without gaps.")
    state: str = Field(description="`candidate`, `approved`, `rejected`, `retired` or `revoked`.")
    state_reason: str | None = Field(description="Why it is retired or revoked; null in any other state.")
    state_changed_at: int | None = Field(description="Since when, in seconds since 1970; null for a candidate.")
    data_class: str = Field(description="That of the most confidential file that it learned from.")
    labels: dict[str, str] = Field(description="What its department wrote beside it.")
    description: str = Field(description="The same in words.")
    model: str = Field(description="What the client calls it: `ft:…`.")
    base_model: str = Field(description="The base model it belongs on.")
    damaged_at: int | None = Field(
        description="When a file of it was found missing or changed in storage, in seconds since 1970; null while it is"
        " whole. Nobody can pull it until it is whole again."
    )
    digest: Digest = Field(description="Of its manifest.")
    files: list[AdapterFileObject] = Field(description="Its files, by path: a PEFT folder.")
    bytes: int = Field(description="Size of all its files together.")
    job_id: str | None = Field(description="The job that made it; null for one that was imported.")
    created_at: int = Field(description="When it was made, in seconds since 1970.")
    created_by: str = Field(description="Who submitted the job, or imported it: `user-…` or `svcacct_…`.")
    metrics: dict[str, Any] | None = Field(
        description="The run's report: losses, tokens, speed, parameters, versions; null for an imported version."
    )
    evaluation: list[EvaluationObject] = Field(description="Reports on held-out rows, newest first.")

    @classmethod
    def of(
        cls, version: AdapterVersion, *, adapter: str, base_model: str, author: IdKind, evaluations: list[Evaluation]
    ) -> "AdapterVersionObject":
        """From its row and the names it points at."""
        manifest = Manifest.model_validate(version.manifest, strict=False)
        return cls(
            id=public_id(IdKind.ADAPTER_VERSION, version.id),
            adapter=adapter,
            number=version.number,
            state=version.state,
            state_reason=version.state_reason,
            state_changed_at=seconds_or_none(version.state_changed_at),
            data_class=version.data_class,
            labels=version.labels,
            description=version.description,
            model=version.model_name,
            base_model=base_model,
            damaged_at=seconds_or_none(version.damaged_at),
            digest=version.digest,
            files=[AdapterFileObject(path=f.path, bytes=f.bytes, digest=f.digest) for f in manifest.files],
            bytes=manifest.total_bytes,
            job_id=None if version.job_id is None else public_id(IdKind.JOB, version.job_id),
            created_at=seconds(version.created_at),
            created_by=public_id(author, version.created_by),
            metrics=version.report,
            evaluation=[EvaluationObject.of(evaluation) for evaluation in evaluations],
        )
