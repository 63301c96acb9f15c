"""What came of a file: the versions that have to do with it, directly or through a version that learned from it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.adapters import VersionState
from domain.digests import Digest
from domain.lineage import LEARNED
from domain.refusals import NotFound
from models_db.adapters import Adapter, AdapterVersion, Alias, Evaluation
from models_db.files import File
from models_db.handouts import Deployment, Download
from models_db.jobs import Job, JobCheckpoint

# A version that goes on from one whose weights learned from the file has learned from it. One that was measured on the
# file, or had its loss watched on it, has not, and neither has what goes on from it.
_DESCENDED = text("""
    WITH RECURSIVE descended (version_id, relation, through) AS (
        SELECT e.subject_id, e.relation, NULL::uuid
        FROM lineage_edges e
        WHERE e.object_id = :file AND e.relation IN ('trained_on', 'validated_on', 'evaluated_on')
        UNION
        SELECT e.subject_id, e.relation, e.object_id
        FROM descended d JOIN lineage_edges e ON e.object_id = d.version_id AND e.relation = 'continued_from'
        WHERE d.relation IN ('trained_on', 'continued_from')
    )
    SELECT version_id, relation, through FROM descended
""")
# Of several ways in which a version has to do with a file, the nearest counts.
_NEAREST = ("trained_on", "continued_from", "validated_on", "evaluated_on")
_LIVE = frozenset({VersionState.CANDIDATE, VersionState.APPROVED})


class Descent(NamedTuple):
    """How a version has to do with the file. through: the version that it goes on from, where it is not the file."""

    relation: str
    through: UUID | None


@dataclass(frozen=True)
class Descendant:
    """A version, how it has to do with the file, and where it is."""

    version: AdapterVersion
    adapter: str
    descent: Descent
    aliases: tuple[str, ...]
    deployments: tuple[Deployment, ...]
    holders: tuple[Download, ...]

    @property
    def is_live(self) -> bool:
        """Whether it can still be handed out, or is."""
        return self.version.state in _LIVE


def descents(session: Session, file: UUID) -> dict[UUID, Descent]:
    """Versions that have to do with the file, each in the nearest way."""
    found: dict[UUID, Descent] = {}
    for row in session.execute(_DESCENDED, {"file": file}):
        known = found.get(row.version_id)
        if known is None or _NEAREST.index(row.relation) < _NEAREST.index(known.relation):
            found[row.version_id] = Descent(row.relation, row.through)
    return found


def learned(descended: dict[UUID, Descent]) -> list[UUID]:
    """Those whose weights learned from the file."""
    return [version for version, descent in descended.items() if descent.relation in LEARNED]


def of_file(session: Session, principal: Principal, file: UUID) -> tuple[File, Sequence[Descendant]]:
    """The file, and every version that has to do with it, the newest first. Raises NotFound.

    A file that was deleted or erased still has its descendants.
    """
    require(principal, Permission.LINEAGE_READ)
    found = session.get(File, file)
    if found is None:
        raise NotFound("No such file.")
    return found, placed(session, descents(session, file))


def placed(session: Session, descended: dict[UUID, Descent]) -> Sequence[Descendant]:
    """Versions with where each of them is, the newest first."""
    wanted = AdapterVersion.id.in_(descended)
    versions = session.execute(
        select(AdapterVersion, Adapter.name)
        .join(Adapter, Adapter.id == AdapterVersion.adapter_id)
        .where(wanted)
        .order_by(AdapterVersion.id.desc())
    ).all()
    aliases = session.scalars(select(Alias).where(Alias.version_id.in_(descended)).order_by(Alias.name)).all()
    deployments = session.scalars(select(Deployment).where(Deployment.version_id.in_(descended))).all()
    holders = session.scalars(select(Download).where(Download.version_id.in_(descended))).all()
    return [
        Descendant(
            version=version,
            adapter=name,
            descent=descended[version.id],
            aliases=tuple(alias.name for alias in aliases if alias.version_id == version.id),
            deployments=tuple(each for each in deployments if each.version_id == version.id),
            holders=tuple(each for each in holders if each.version_id == version.id),
        )
        for version, name in versions
    ]


@dataclass(frozen=True)
class JobOfFile:
    """A job that reads the file, or goes on from a version that learned from it, and its stored checkpoints."""

    job: Job
    checkpoints: int


def jobs_of(session: Session, file: UUID, parents: Collection[UUID]) -> Sequence[JobOfFile]:
    """Jobs that read the file or go on from one of the parents, the oldest first."""
    uses = or_(
        Job.training_file_id == file,
        Job.validation_file_id == file,
        Job.evaluation_file_id == file,
        Job.parent_version_id.in_(parents),
    )
    stored = (
        select(func.count())
        .select_from(JobCheckpoint)
        .where(JobCheckpoint.job_id == Job.id, JobCheckpoint.erased_at.is_(None))
        .scalar_subquery()
    )
    found = session.execute(select(Job, stored).where(uses).order_by(Job.id)).all()
    return [JobOfFile(job, checkpoints) for job, checkpoints in found]


def evaluations_on(session: Session, file: UUID) -> Sequence[Evaluation]:
    """Reports whose numbers were measured on the file."""
    return session.scalars(select(Evaluation).where(Evaluation.file_id == file).order_by(Evaluation.id)).all()


def twins(session: Session, file: UUID, digest: Digest) -> Sequence[UUID]:
    """Other files of the department with the same bytes, which are one object with it."""
    same = select(File.id).where(File.digest == digest, File.id != file, File.deleted_at.is_(None))
    return session.scalars(same.order_by(File.id)).all()
