"""Policies: put, read, compared, tried on versions that there are, and asked before anything is trained or served."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from domain import policies
from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.data_classes import DataClass, strictest
from domain.digests import Digest, digest_of
from domain.plans import EvaluationReport
from domain.policies import PRODUCTION, Change, Policy, PolicyDocument, PolicyVersion, Scope
from domain.refusals import NotFound
from domain.runs import LoraMethod, RunSpec
from domain.servability import AdapterTraits
from domain.verdicts import (
    Evaluated,
    Purpose,
    TrainingFacts,
    Verdict,
    VersionFacts,
    judge_training,
    judge_version,
)
from models_db.adapters import Adapter, AdapterVersion, Alias, Evaluation
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from models_db.policies import StoredPolicy
from models_db.sessions import take_lock
from services import audit
from services.base_models import facts_of
from services.cursors import known_cursor

CURRENT = "current"
_MAX_NUMBER_DIGITS = 9

_LEARNED_FROM = text("""
    WITH RECURSIVE line AS (
        SELECT v.id AS version, v.job_id AS job FROM adapter_versions v WHERE v.id = ANY(:versions)
        UNION
        SELECT line.version, parent.job_id
        FROM line JOIN jobs j ON j.id = line.job JOIN adapter_versions parent ON parent.id = j.parent_version_id
    )
    SELECT line.version, j.spec -> 'data' ->> 'train' AS train, j.spec -> 'data' ->> 'validation' AS validation
    FROM line JOIN jobs j ON j.id = line.job
""")

_PUTTING: Mapping[Scope, Permission] = {
    Scope.ORGANISATION: Permission.POLICY_SET_ORGANISATION,
    Scope.DEPARTMENT: Permission.POLICY_SET,
}


# --- documents: in a department's session its own, in a platform session the organisation's ---------------------------


def put(
    session: Session, principal: Principal, scope: Scope, content: bytes, *, checkpoint_ttl: timedelta
) -> StoredPolicy:
    """Make a text the next version, in force from the commit on. The same text again changes nothing.

    Raises InvalidPolicy, and PolicyWidens where it allows what stands above it does not.
    """
    require(principal, _PUTTING[scope])
    _check(session, scope, content, checkpoint_ttl)
    actor = principal if scope is Scope.DEPARTMENT else replace(principal, department=None)
    # Its number follows the newest one's: two must not look at once.
    take_lock(session, f"policies of {actor.department}")
    newest, digest = _newest(session), digest_of(content)
    if newest is not None and newest.digest == digest:
        return newest
    stored = StoredPolicy(
        department_id=actor.department,
        number=newest.number + 1 if newest else 1,
        document=content.decode(),
        digest=digest,
        created_by=principal.id,
        created_by_type=principal.type,
    )
    session.add(stored)
    session.flush()
    audit.record(
        session,
        actor,
        AuditEvent.POLICY_CHANGED,
        resource=("policy", stored.id),
        details={
            "scope": scope, "number": stored.number, "digest": digest, "before": newest.digest if newest else None
        },
    )  # fmt: skip
    return stored


def _check(session: Session, scope: Scope, content: bytes, checkpoint_ttl: timedelta) -> None:
    organisation = in_force(session).document_of(Scope.ORGANISATION) if scope is Scope.DEPARTMENT else None
    above = policies.ceiling(organisation, checkpoint_days=checkpoint_ttl / timedelta(days=1))
    policies.check_narrows(content, above, whose="the organisation's" if organisation else "the installation's")


def _newest(session: Session) -> StoredPolicy | None:
    return session.scalars(select(StoredPolicy).order_by(StoredPolicy.number.desc()).limit(1)).one_or_none()


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int
) -> tuple[Sequence[StoredPolicy], bool]:
    """A page of the versions, newest first, and whether there are more."""
    require(principal, Permission.POLICY_READ)
    statement = select(StoredPolicy)
    if after is not None:
        statement = statement.where(StoredPolicy.id < known_cursor(session, StoredPolicy, after))
    found = session.scalars(statement.order_by(StoredPolicy.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def get(session: Session, principal: Principal, reference: str) -> StoredPolicy:
    """One version by number, or the `current` one. Raises NotFound."""
    require(principal, Permission.POLICY_READ)
    found = None
    if reference == CURRENT:
        found = _newest(session)
    elif reference.isascii() and reference.isdigit() and len(reference) <= _MAX_NUMBER_DIGITS:
        found = session.scalars(select(StoredPolicy).where(StoredPolicy.number == int(reference))).one_or_none()
    if found is None:
        raise NotFound("No such policy.")
    return found


@dataclass(frozen=True)
class PolicyDiff:
    """What one version has that another has not: rule by rule, and as text."""

    before: int | None
    after: int
    changes: tuple[Change, ...]
    text: str


def diff(session: Session, principal: Principal, reference: str, against: str | None) -> PolicyDiff:
    """A version beside an older one; beside the one before it where none is named. Raises NotFound."""
    after = get(session, principal, reference)
    before = None
    if against is not None:
        before = get(session, principal, against)
    elif after.number > 1:
        before = get(session, principal, str(after.number - 1))
    texts = before.document if before else "", after.document
    return PolicyDiff(
        before=before.number if before else None,
        after=after.number,
        changes=tuple(policies.changes(_document(before) if before else None, _document(after))),
        text=policies.text_diff(*texts, names=(f"version {before.number if before else 0}", f"version {after.number}")),
    )


def _document(stored: StoredPolicy) -> PolicyDocument:
    return policies.parse(stored.document.encode())


# --- judging, in a department's session -------------------------------------------------------------------------------


def in_force(session: Session) -> Policy:
    """The documents that hold for the session's department now."""
    documents = []
    organisation = session.execute(text("SELECT * FROM organisation_policy()")).one_or_none()
    if organisation is not None:
        document = policies.parse(organisation.document.encode())
        documents.append(PolicyVersion(Scope.ORGANISATION, organisation.number, organisation.digest, document))
    own = _newest(session)
    if own is not None:
        documents.append(PolicyVersion(Scope.DEPARTMENT, own.number, own.digest, _document(own)))
    return Policy(tuple(documents))


def judge_submit(session: Session, spec: RunSpec, learns_from: Sequence[File | AdapterVersion]) -> Verdict:
    """Whether a job may be trained, by what it learns from: files, and a version that it goes on from."""
    data_class = strictest(DataClass(each.data_class) for each in learns_from)
    facts = TrainingFacts(base_model=spec.base_model, method=spec.lora, data_class=data_class)
    return judge_training(in_force(session), facts)


def judge(session: Session, version: AdapterVersion, purpose: Purpose) -> Verdict:
    """Whether a version may be approved, or a protected alias moved to it: by the documents in force now."""
    return judge_version(in_force(session), _facts(session, [version])[version.id], purpose)


def require_passed(session: Session, version: AdapterVersion, purpose: Purpose) -> Digest | None:
    """The digest of the policy that lets it pass; None where there is none. Raises PolicyViolation, every reason."""
    verdict = judge(session, version, purpose)
    verdict.require_passed()
    return verdict.policy.digest


def required_approvals(session: Session, version: AdapterVersion) -> int:
    """How many people have to approve a version, none of whom made it."""
    return in_force(session).required_approvals(DataClass(version.data_class))


def checkpoint_ttl(session: Session, installation: timedelta) -> timedelta:
    """How long the checkpoints of the department's finished jobs are kept."""
    return timedelta(days=in_force(session).checkpoint_days(installation / timedelta(days=1)))


def ask(session: Session, principal: Principal, version: AdapterVersion, purpose: Purpose) -> Verdict:
    """Would this pass: the verdict as a service account asks for it, before people are troubled."""
    require(principal, Permission.POLICY_READ)
    return judge(session, version, purpose)


@dataclass(frozen=True)
class Tried:
    """What a text says of one version."""

    adapter: str
    version: AdapterVersion
    verdict: Verdict


def try_on(
    session: Session, principal: Principal, scope: Scope, content: bytes, *, checkpoint_ttl: timedelta, limit: int
) -> list[Tried]:
    """What a text would say of the department's newest versions if it were in force in place of its scope's document.

    Raises InvalidPolicy and PolicyWidens, as putting it would.
    """
    require(principal, Permission.POLICY_READ)
    require(principal, Permission.ADAPTER_READ)
    _check(session, scope, content, checkpoint_ttl)
    tried = in_force(session).replacing(PolicyVersion(scope, None, digest_of(content), policies.parse(content)))
    there = select(AdapterVersion, Adapter.name).join(Adapter).where(AdapterVersion.deleted_at.is_(None))
    newest = session.execute(there.order_by(AdapterVersion.id.desc()).limit(limit))
    found = [(version, name) for version, name in newest]
    facts = _facts(session, [version for version, _ in found])
    return [Tried(name, version, judge_version(tried, facts[version.id], Purpose.APPROVAL)) for version, name in found]


# --- what is known of versions, in as many queries for many as for one ------------------------------------------------


def _facts(session: Session, versions: Sequence[AdapterVersion]) -> dict[UUID, VersionFacts]:
    methods = _methods(session, versions)
    base_models = {
        each.id: each
        for each in session.scalars(select(BaseModel).where(BaseModel.id.in_({v.base_model_id for v in versions})))
    }
    learned = _learned_from(session, versions)
    in_production = _in_production(session, {version.adapter_id for version in versions})
    evaluated = _evaluated(session, {version.id for version in versions} | set(in_production.values()))
    found: dict[UUID, VersionFacts] = {}
    for version in versions:
        method, base_model = methods[version.id], base_models[version.base_model_id]
        production = in_production.get(version.adapter_id, version.id)
        found[version.id] = VersionFacts(
            training=TrainingFacts(base_model=base_model.name, method=method, data_class=DataClass(version.data_class)),
            traits=AdapterTraits.of_method(method, facts_of(base_model)),
            learned_from=learned[version.id],
            evaluations=evaluated[version.id],
            production=None if production == version.id else evaluated[production],
        )
    return found


def _methods(session: Session, versions: Sequence[AdapterVersion]) -> dict[UUID, LoraMethod]:
    """How each was trained: by its job's specification or, of an imported one, by its configuration."""
    trained = select(Job.id, Job.spec["method"].label("method")).where(
        Job.id.in_({version.job_id for version in versions})
    )
    of_jobs = {row.id: row.method for row in session.execute(trained)}
    return {
        version.id: LoraMethod.model_validate(of_jobs.get(version.job_id, version.imported_method), strict=False)
        for version in versions
    }


def _learned_from(session: Session, versions: Sequence[AdapterVersion]) -> dict[UUID, frozenset[Digest]]:
    """The rows that each version was trained or validated on, and those of all that it goes on from."""
    rows = session.execute(_LEARNED_FROM, {"versions": [version.id for version in versions]})
    found: dict[UUID, set[Digest]] = {version.id: set() for version in versions}
    for row in rows:
        found[row.version] |= {digest for digest in (row.train, row.validation) if digest}
    return {version: frozenset(digests) for version, digests in found.items()}


def _in_production(session: Session, adapters: set[UUID]) -> dict[UUID, UUID]:
    """The version that each adapter's alias `production` stands for."""
    aliases = select(Alias.adapter_id, Alias.version_id).where(Alias.adapter_id.in_(adapters), Alias.name == PRODUCTION)
    return {row.adapter_id: row.version_id for row in session.execute(aliases)}


def _evaluated(session: Session, versions: set[UUID]) -> Mapping[UUID, tuple[Evaluated, ...]]:
    """The newest evaluation of each version on each file, files of the same bytes being one."""
    rows = session.execute(
        select(Evaluation, File.digest)
        .join(File, File.id == Evaluation.file_id)
        .where(Evaluation.version_id.in_(versions))
        .order_by(Evaluation.id)
    )
    found: dict[UUID, dict[Digest, Evaluated]] = defaultdict(dict)
    for evaluation, digest in rows:
        base, adapter = (
            EvaluationReport.model_validate(report, strict=False)
            for report in (evaluation.base_report, evaluation.adapter_report)
        )
        found[evaluation.version_id][digest] = Evaluated(file=digest, base=base, adapter=adapter)
    return defaultdict(tuple, {version: tuple(by_file.values()) for version, by_file in found.items()})
