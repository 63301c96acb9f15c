"""Names that move between the versions of an adapter: by people, with a condition; `latest` by Tsugiki itself.

Whoever moves one, or changes the state of what it may stand for, holds the adapter's lock: numbers, states and aliases
of one adapter change one after another. The database refuses by itself what this should miss (`check_alias_move`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from domain import access
from domain.access import Permission, Principal, require
from domain.adapters import LATEST, STANDING, MoveKind, VersionState, check_alias
from domain.approvals import Decision
from domain.audit import AuditEvent
from domain.digests import Digest
from domain.refusals import (
    NoEarlierVersion,
    NotFound,
    PreconditionRequired,
    SeparationOfDuties,
    StaleVersion,
    VersionNotApproved,
)
from domain.verdicts import Purpose
from models_db.adapters import Adapter, AdapterVersion, Alias, AliasMove
from models_db.approvals import ApprovalDecision
from services import audit, outbox, policies
from services.cursors import known_cursor


@dataclass(frozen=True)
class StandingAlias:
    """An alias, the version it stands for, and the move that put it there; None from before moves were kept."""

    alias: Alias
    version: AdapterVersion
    move: AliasMove | None

    @property
    def etag(self) -> str:
        """What a condition names: another after every move, also after one back to the same version."""
        return (self.alias.move_id or self.alias.version_id).hex


@dataclass(frozen=True)
class Expected:
    """What a caller believes to be there: an alias with this etag, or no alias of that name."""

    etag: str | None


@dataclass(frozen=True)
class PastMove:
    """A move, and the numbers of the versions it went between."""

    move: AliasMove
    from_number: int | None
    number: int | None


# --- reading ----------------------------------------------------------------------------------------------------------


def list_all(session: Session, principal: Principal, adapter: Adapter) -> Sequence[StandingAlias]:
    """An adapter's aliases, by name."""
    require(principal, Permission.ADAPTER_READ)
    return _standing(session, adapter)


def get(session: Session, principal: Principal, adapter: Adapter, name: str) -> StandingAlias:
    """One alias of an adapter. Raises NotFound."""
    require(principal, Permission.ADAPTER_READ)
    found = _find(session, adapter, name)
    if found is None:
        raise NotFound("No such alias.")
    return found


def history(
    session: Session, principal: Principal, adapter: Adapter, name: str, *, after: UUID | None, limit: int
) -> tuple[Sequence[PastMove], bool]:
    """A page of an alias's moves, newest first, and whether there are more. Raises NotFound for one that never was."""
    require(principal, Permission.ADAPTER_READ)
    went_from, went_to = aliased(AdapterVersion), aliased(AdapterVersion)
    statement = (
        select(AliasMove, went_from.number, went_to.number)
        .outerjoin(went_from, went_from.id == AliasMove.from_version_id)
        .outerjoin(went_to, went_to.id == AliasMove.version_id)
        .where(AliasMove.adapter_id == adapter.id, AliasMove.name == name)
    )
    if after is not None:
        known_cursor(session, AliasMove, after)
        number = select(AliasMove.number).where(AliasMove.id == after).scalar_subquery()
        statement = statement.where(AliasMove.number < number)
    rows = session.execute(statement.order_by(AliasMove.number.desc()).limit(limit + 1)).all()
    if not rows and after is None:
        raise NotFound("No such alias.")
    return [PastMove(*row) for row in rows[:limit]], len(rows) > limit


def _standing(session: Session, adapter: Adapter, *conditions: ColumnElement[bool]) -> list[StandingAlias]:
    rows = session.execute(
        select(Alias, AdapterVersion, AliasMove)
        .join(AdapterVersion, AdapterVersion.id == Alias.version_id)
        .outerjoin(AliasMove, AliasMove.id == Alias.move_id)
        .where(Alias.adapter_id == adapter.id, *conditions)
        .order_by(Alias.name)
        .execution_options(populate_existing=True)
    )
    return [StandingAlias(*row) for row in rows]


def _find(session: Session, adapter: Adapter, name: str) -> StandingAlias | None:
    return next(iter(_standing(session, adapter, Alias.name == name)), None)


# --- moving -----------------------------------------------------------------------------------------------------------


def lock(session: Session, adapter_id: UUID) -> Adapter:
    """The adapter, until the transaction ends nobody else's to number, move or withdraw in."""
    statement = select(Adapter).where(Adapter.id == adapter_id).with_for_update()
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def move(
    session: Session,
    principal: Principal,
    adapter: Adapter,
    name: str,
    *,
    version: int | UUID,
    expected: Expected | None,
    protected: frozenset[str],
) -> StandingAlias:
    """Let an alias stand for a version, by its number or id; a new name, where `expected` says that there is none.

    protected: names that stand for approved versions only, moved by an admin who did not approve it. Raises
    PreconditionRequired, StaleVersion, VersionNotApproved, SeparationOfDuties, PolicyViolation, and NotFound.
    """
    _require_may_move(principal, name, protected)
    check_alias(name)
    lock(session, adapter.id)
    wanted = _version(session, adapter, version)
    current = _find(session, adapter, name)
    _check_expected(current, expected)
    _check_may_stand(session, principal, adapter, wanted, is_protected=name in protected)
    if current is not None and current.version.id == wanted.id:
        return current
    step = _Move(adapter.id, name, MoveKind.MOVED, wanted, _top(session, adapter, name))
    _place(session, principal, _ruled(session, step, Purpose.PROTECTED_ALIAS) if name in protected else step)
    return get(session, principal, adapter, name)


def roll_back(
    session: Session,
    principal: Principal,
    adapter: Adapter,
    name: str,
    *,
    expected: Expected | None,
    protected: frozenset[str],
) -> StandingAlias:
    """Let an alias stand again for the version before, also one that was withdrawn; once more for the one before that.

    Versions that it may not stand for any more are passed over. Raises NoEarlierVersion, and StaleVersion where
    `expected` is given.
    """
    require(principal, Permission.ALIAS_ROLL_BACK_PROTECTED if name in protected else Permission.ALIAS_MOVE)
    check_alias(name)
    lock(session, adapter.id)
    top = _top(session, adapter, name)
    if top is None:
        raise NotFound("No such alias.")
    if expected is not None:
        _check_expected(_find(session, adapter, name), expected)
    earlier = _earlier(session, top, protected=name in protected)
    wanted = session.get_one(AdapterVersion, earlier.version_id)
    _check_may_stand(session, principal, adapter, wanted, is_protected=name in protected)
    before = session.get(AliasMove, earlier.previous_id) if earlier.previous_id else None
    step = _Move(adapter.id, name, MoveKind.ROLLED_BACK, wanted, before)
    _place(session, principal, _ruled(session, step, Purpose.ROLLBACK) if name in protected else step)
    return get(session, principal, adapter, name)


def withdraw(
    session: Session,
    principal: Principal,
    adapter: Adapter,
    name: str,
    *,
    expected: Expected | None,
    protected: frozenset[str],
) -> None:
    """Take an alias away; its history stays, and a rollback brings it back. Raises NotFound, StaleVersion."""
    _require_may_move(principal, name, protected)
    check_alias(name)
    lock(session, adapter.id)
    current = get(session, principal, adapter, name)
    if expected is not None:
        _check_expected(current, expected)
    _withdraw(session, principal, current)


def withdraw_from(session: Session, principal: Principal, version: AdapterVersion) -> list[str]:
    """Take every alias away from a version that is not to be served any more; their names. The caller holds the lock.

    `latest` goes on to the newest version that still stands, where there is one.
    """
    adapter = session.get_one(Adapter, version.adapter_id)
    found = _standing(session, adapter, Alias.version_id == version.id)
    for current in found:
        newest = _newest(session, version) if current.alias.name == LATEST else None
        if newest is not None:
            _follow(session, newest)
        else:
            _withdraw(session, principal, current)
    return [current.alias.name for current in found]


def follow_newest(session: Session, version: AdapterVersion) -> None:
    """`latest` goes on to a version that was just made; the caller holds the adapter's lock."""
    _follow(session, version)


def _require_may_move(principal: Principal, name: str, protected: frozenset[str]) -> None:
    require(principal, Permission.ALIAS_MOVE_PROTECTED if name in protected else Permission.ALIAS_MOVE)


def _version(session: Session, adapter: Adapter, wanted: int | UUID) -> AdapterVersion:
    if isinstance(wanted, UUID):
        found = session.get(AdapterVersion, wanted)
    else:
        found = session.scalars(
            select(AdapterVersion).where(AdapterVersion.adapter_id == adapter.id, AdapterVersion.number == wanted)
        ).one_or_none()
    if found is None or found.deleted_at is not None:
        raise NotFound("No such adapter version.", param="version")
    return found


def _check_expected(current: StandingAlias | None, expected: Expected | None) -> None:
    if expected is None:
        raise PreconditionRequired(
            "Say what is there now: `If-Match` with the alias's ETag, or `If-None-Match: *` for a new one.",
            param="If-Match",
        )
    if (current.etag if current else None) != expected.etag:
        stands = f"stands for version {current.version.number} now" if current else "does not exist now"
        raise StaleVersion(f"Somebody was first: the alias {stands}.", param="If-Match")


def _check_may_stand(
    session: Session, principal: Principal, adapter: Adapter, version: AdapterVersion, *, is_protected: bool
) -> None:
    if version.adapter_id != adapter.id:
        raise VersionNotApproved("That is another adapter's version.", param="version")
    if version.state not in _may_stand(is_protected=is_protected):
        raise VersionNotApproved(f"The version is {version.state}; the alias cannot stand for it.", param="version")
    if not is_protected:
        return
    if principal.human is None:
        raise SeparationOfDuties("Nobody is known who answers for this key.")
    if principal.human in _approvers(session, version):
        raise SeparationOfDuties("Whoever approved a version does not put it into service.")


def _may_stand(*, is_protected: bool) -> frozenset[VersionState]:
    return frozenset({VersionState.APPROVED}) if is_protected else STANDING


def _approvers(session: Session, version: AdapterVersion) -> set[UUID]:
    approved = select(ApprovalDecision.approver_id).where(
        ApprovalDecision.version_id == version.id, ApprovalDecision.decision == Decision.APPROVE
    )
    return set(session.scalars(approved))


def _top(session: Session, adapter: Adapter, name: str) -> AliasMove | None:
    """The newest move of an alias that there is, or was."""
    moves = select(AliasMove).where(AliasMove.adapter_id == adapter.id, AliasMove.name == name)
    return session.scalars(moves.order_by(AliasMove.number.desc()).limit(1)).one_or_none()


def _earlier(session: Session, top: AliasMove, *, protected: bool) -> AliasMove:
    """The nearest move before it to a version that the alias may still stand for, and does not stand for now."""
    found = session.get(AliasMove, top.previous_id) if top.previous_id else None
    while found is not None:
        version = session.get(AdapterVersion, found.version_id) if found.version_id else None
        stands = version is not None and version.deleted_at is None and version.id != top.version_id
        if stands and version is not None and version.state in _may_stand(is_protected=protected):
            return found
        found = session.get(AliasMove, found.previous_id) if found.previous_id else None
    raise NoEarlierVersion("The alias has stood for no other version that it may stand for now.")


# --- what every move is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """A move to be made. previous: what a rollback would go back to. policy: which lets a protected alias move."""

    adapter_id: UUID
    name: str
    kind: MoveKind
    version: AdapterVersion | None
    previous: AliasMove | None
    protected: bool = False
    policy: Digest | None = None


def _ruled(session: Session, move: _Move, purpose: Purpose) -> _Move:
    """A protected alias's move, as the policy in force lets it. Raises PolicyViolation."""
    policy = policies.require_passed(session, move.version, purpose) if move.version else None
    return replace(move, protected=True, policy=policy)


def _follow(session: Session, version: AdapterVersion) -> None:
    actor = access.system(version.department_id)
    top = _top(session, session.get_one(Adapter, version.adapter_id), LATEST)
    _place(session, actor, _Move(version.adapter_id, LATEST, MoveKind.MOVED, version, top))


def _newest(session: Session, instead_of: AdapterVersion) -> AdapterVersion | None:
    return session.scalars(
        select(AdapterVersion)
        .where(
            AdapterVersion.adapter_id == instead_of.adapter_id,
            AdapterVersion.id != instead_of.id,
            AdapterVersion.state.in_(STANDING),
            AdapterVersion.deleted_at.is_(None),
        )
        .order_by(AdapterVersion.number.desc())
        .limit(1)
    ).one_or_none()


def _withdraw(session: Session, principal: Principal, current: StandingAlias) -> None:
    alias = current.alias
    _place(session, principal, _Move(alias.adapter_id, alias.name, MoveKind.WITHDRAWN, None, current.move))


def _place(session: Session, principal: Principal, move: _Move) -> None:
    """Write a move down, and put the alias where it leads. The caller holds the adapter's lock."""
    of_alias = Alias.adapter_id == move.adapter_id, Alias.name == move.name
    standing = select(AdapterVersion).join(Alias, Alias.version_id == AdapterVersion.id).where(*of_alias)
    before = session.scalars(standing).one_or_none()
    where = {"department_id": principal.department, "adapter_id": move.adapter_id, "name": move.name}
    made = AliasMove(
        **where,
        kind=move.kind,
        from_version_id=before.id if before else None,
        version_id=move.version.id if move.version else None,
        previous_id=move.previous.id if move.previous else None,
        protected=move.protected,
        policy_digest=move.policy,
        moved_by_type=principal.type,
        moved_by=principal.id,
        mover_id=principal.human,
    )
    session.add(made)
    session.flush()
    if move.version is None:
        session.execute(delete(Alias).where(*of_alias))
    else:
        stands = {"version_id": move.version.id, "move_id": made.id, "moved_at": made.moved_at}
        placing = insert(Alias).values(where | stands)
        session.execute(placing.on_conflict_do_update(constraint="pk_aliases", set_=stands))
    _record(session, principal, move, before)


def _record(session: Session, principal: Principal, move: _Move, before: AdapterVersion | None) -> None:
    """Tell of a move where it leads to, or of an alias's end where it stood: in the trail, and to who wants to hear."""
    subject, refs = move.version or before, {move.adapter_id}
    if subject is None:
        return
    if before is not None and before is not subject:
        refs.add(before.id)
    audit.record(
        session,
        principal,
        AuditEvent.ALIAS_MOVED if move.version else AuditEvent.ALIAS_WITHDRAWN,
        resource=("adapter_version", subject.id),
        refs=sorted(refs),
        details={
            "alias": move.name,
            "from": before.number if before else None,
            "number": move.version.number if move.version else None,
            "kind": move.kind,
            "protected": move.protected,
            **({"policy": move.policy} if move.protected else {}),
        },
    )
    outbox.announce_alias(session, move.name, move.version, adapter=session.get_one(Adapter, move.adapter_id))
